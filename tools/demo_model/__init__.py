"""Builds the demo model that ships in ``magenta_bento/weights/demo``."""
