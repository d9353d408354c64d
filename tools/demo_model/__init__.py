"""Builds the demo model that ships in ``magenta_bento/weights/demo``."""

from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "demo_model"  # what trainings keep; not in git
