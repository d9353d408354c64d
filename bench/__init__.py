"""Measurements: one script for each claim about speed or parity, and what they share."""
