"""Magenta RealTime 2 as a BentoML service."""

__version__ = "0.1.0"
