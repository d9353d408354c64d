"""How the ``plan`` command reads its options.

Invariant: a number that is accepted is finite and within bounds; a refusal names them. The
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
UNIT_S = {"s": 1, "min": 60, "h": 3_600}


class FiniteFloatRange(click.FloatRange):
    """A range of floats without "inf", and without "nan", which every comparison lets through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def rate(value: str) -> float:
    """A rate per second, read from "2/s", "120/min" or "7200/h".

    Raises:
      BadParameter: The text is no rate, or the rate is above ``MOST_PER_S``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)/(s|min|h)", value.strip())
    if not found:
        raise click.BadParameter(
            f"{value!r} is not a rate: write 2/s, 120/min or 7200/h, for example."
        )
    per_s = float(found[1]) / UNIT_S[found[2]]
    if per_s > MOST_PER_S:
        raise click.BadParameter(f"{value} is above {MOST_PER_S:g}/s, the most that is planned.")
    return per_s


def gpu(value: str) -> Gpu:
    """The GPU with a name of ``planning.gpus.GPUS``.

    Raises:
      BadParameter: No GPU has that name.
    """
    from magenta_bento.planning.gpus import GPUS

    if value not in GPUS:
        raise click.BadParameter(f"{value!r} is none of {', '.join(GPUS)}.")
    return GPUS[value]
