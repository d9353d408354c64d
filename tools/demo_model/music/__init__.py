"""Procedural music for training the demo: sound, labels and captions, all from a seed."""
