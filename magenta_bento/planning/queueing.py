"""How long one waits for one of c slots.

Requests come at random (Poisson) and take a random (exponential) amount of work; each of c
slots serves one of them, the others wait in one line. If a slot always works at the same speed
that is Erlang's delay system, M/M/c (Erlang 1917, "Solution of some problems in the theory of
probabilities of significance in automatic telephone exchanges"; Kleinrock 1975, "Queueing
Systems" volume 1, section 3.5). Slots of one device slow each other down, so the rate of
completions depends on how many play: the same birth-death process with other rates (Kleinrock,
section 3.1).

Invariant: probabilities come from a recursion over ratios in 0 to 1, never from factorials or
powers, so no load and no number of slots overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Station:
    """c slots with one line before them.

    Attributes:
      arrivals_per_s: Requests that come.
      completions_per_s: Requests that are done, for all slots together, while 1, 2, … c play.
    """

    arrivals_per_s: float
    completions_per_s: Sequence[float]

    @property
    def slots(self) -> int:
        return len(self.completions_per_s)

    @property
    def utilisation(self) -> float:
        """Arrivals over what all slots together complete; at 1 and above the line only grows."""
        return self.arrivals_per_s / self.completions_per_s[-1]

    @property
    def stable(self) -> bool:
        return self.utilisation < 1

    @cached_property
    def wait_probability(self) -> float:
        """How likely one who comes has to wait; 1 if the line only grows."""
        if not self.stable:
            return 1.0
        # With an endless line behind it, state c stands for the geometric series of all beyond.
        full = self._full_share
        return full / (full + (1 - full) * (1 - self.utilisation))

    @property
    def mean_wait_s(self) -> float:
        """Of all who come, those who need not wait included."""
        return self.wait_probability / self._spare_per_s if self.stable else math.inf

    def wait_quantile_s(self, quantile: float) -> float:
        """The wait that this share of all who come does not exceed."""
        if not self.stable:
            return math.inf
        if self.wait_probability <= 1 - quantile:
            return 0.0
        return math.log(self.wait_probability / (1 - quantile)) / self._spare_per_s

    def line_probability(self, length: int) -> float:
        """How likely one who comes finds at least so many waiting."""
        if not self.stable:
            return 1.0
        return self.wait_probability * math.pow(self.utilisation, length)

    @cached_property
    def mean_playing(self) -> float:
        """How many slots are taken, on average."""
        if not self.stable:
            return float(self.slots)
        mean = 0.0
        for playing, share in enumerate(self._shares[:-1], 1):
            mean += share * (playing - mean)
        return self.wait_probability * self.slots + (1 - self.wait_probability) * mean

    @property
    def mean_in_slot_s(self) -> float:
        """From getting a slot to the last frame, by Little's law (Little 1961)."""
        if not self.arrivals_per_s:
            return 1 / self.completions_per_s[0]
        return self.mean_playing / min(self.arrivals_per_s, self.completions_per_s[-1])

    @property
    def _spare_per_s(self) -> float:
        return self.completions_per_s[-1] - self.arrivals_per_s

    @cached_property
    def _shares(self) -> list[float]:
        """For n = 1 … c: how likely n play, if there were n slots and those who wait left.

        Erlang's loss formula by its usual recursion, B(n) = a B(n-1) / (n + a B(n-1)), with
        arrivals over completions in place of a/n.
        """
        shares, share = [], 1.0
        for completions_per_s in self.completions_per_s:
            share *= self.arrivals_per_s / completions_per_s
            share /= 1 + share
            shares.append(share)
        return shares

    @property
    def _full_share(self) -> float:
        return self._shares[-1]


def delay_system(arrivals_per_s: float, hold_s: float, slots: int) -> Station:
    """M/M/c: a slot is held for ``hold_s`` on average, however many others are."""
    return Station(arrivals_per_s, [playing / hold_s for playing in range(1, slots + 1)])
