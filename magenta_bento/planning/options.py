"""How the ``plan`` command reads its options.

Invariant: a number that gets through is finite and within bounds that the error names. The
command line imports this module with each command, so it imports the rest of planning late.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from magenta_bento.planning.gpus import Gpu

MOST_PER_S = 10_000.0
SECONDS = {"s": 1, "min": 60, "h": 3_600}


class Finite(click.FloatRange):
    """A range of floats without "nan", which no comparison keeps out, and without "inf"."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def rate(value: str) -> float:
    """So many a second, minute or hour, as "2/s", "120/min" or "7200/h"; becomes 1/s."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)/(s|min|h)", value.strip())
    if not found:
        raise click.BadParameter(
            f"{value!r} is not a rate: write 2/s, 120/min or 7200/h, for example."
        )
    per_s = float(found[1]) / SECONDS[found[2]]
    if per_s > MOST_PER_S:
        raise click.BadParameter(f"{value} is above {MOST_PER_S:g}/s, the most that is planned.")
    return per_s


def gpu(value: str) -> Gpu:
    """The GPU of that name."""
    from magenta_bento.planning.gpus import GPUS

    if value not in GPUS:
        raise click.BadParameter(f"{value!r} is none of {', '.join(GPUS)}.")
    return GPUS[value]
