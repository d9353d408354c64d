"""Trains the demo's language model: upstream's Depthformer, small, on the codec's tokens."""
