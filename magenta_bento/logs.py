"""Where this package's log lines go: to standard error, beside BentoML's.

Invariant: configuring twice changes nothing, and no line holds a prompt or a key.
"""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s [%(levelname)s] %(message)s"


def configure(level: str) -> None:
    """Writes the package's lines of at least this level."""
    logger = logging.getLogger("magenta_bento")
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%S%z"))
        logger.addHandler(handler)
