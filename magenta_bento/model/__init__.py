"""The model on its device. Importing any part of it starts JAX."""

# sequence_layers comes inside magenta_rt, whose import makes it importable.
import magenta_rt  # noqa: F401
