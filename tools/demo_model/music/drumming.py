"""What the drums play in one bar.

Invariant: strokes fall on the frame grid, swing counted in, as notes do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.demo_model.music.grooves import FILL_FROM, FILLS, GROOVES, STRENGTH
from tools.demo_model.music.parts import Bar

HATS = ("h", "o")


@dataclass(frozen=True)
class Stroke:
    """A drum struck at a frame of the piece."""

    frame: int
    drum: str
    velocity: int


def drums(bar: Bar, fill: int | None, crash: bool) -> list[Stroke]:
    """The strokes of a bar.

    Args:
      bar: With a style that has a groove.
      fill: Which fill ends the bar; None for none.
      crash: Whether a cymbal opens it.
    """
    style = bar.style
    patterns = GROOVES[style.groove or ""]
    # Every fourth bar is another one, so that the groove breathes.
    pattern = dict(patterns[(bar.figure + (bar.index % 4 == 3)) % len(patterns)])
    if style.density == 2 and "h" in pattern:
        pattern["h"] = "".join(
            "-" if mark == "." and step % 2 == 0 else mark for step, mark in enumerate(pattern["h"])
        )
    strokes = []
    fill_from = FILL_FROM - (16 - bar.steps)
    for drum, lane in pattern.items():
        for step, mark in enumerate(lane[: bar.steps]):
            filled = fill is not None and step >= fill_from and drum not in ("k", "h")
            quiet = style.density == 0 and (mark == "-" or (drum in HATS and step % 4 == 3))
            if mark in STRENGTH and not filled and not quiet:
                strokes.append(_stroke(bar, step, drum, mark))
    if fill is not None:
        for drum, lane in FILLS[fill % len(FILLS)].items():
            for step, mark in enumerate(lane[16 - bar.steps :]):
                if mark in STRENGTH:
                    strokes.append(_stroke(bar, step, drum, mark))
    if crash:
        strokes.append(_stroke(bar, 0, "x", "x"))
    return strokes


def _stroke(bar: Bar, step: int, drum: str, mark: str) -> Stroke:
    velocity = int(np.clip(bar.style.dynamics + STRENGTH[mark], 0, 2))
    return Stroke(bar.frame(step), drum, velocity)
