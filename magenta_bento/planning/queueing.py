"""How long a request waits for one of c slots.

Requests arrive at random (Poisson) and take a random (exponential) amount of work; each of c
slots serves one of them, the others wait in one queue. If a slot always works at the same speed
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
    """A birth-death queueing system: c slots with one queue before them.

    Attributes:
      arrivals_per_s: Requests that arrive per second.
      completions_per_s: Requests that all slots together complete per second while 1, 2, … c
        slots are busy.
    """

    arrivals_per_s: float
    completions_per_s: Sequence[float]

    @property
    def slots(self) -> int:
        return len(self.completions_per_s)

    @property
    def utilisation(self) -> float:
        """Arrivals over completions of all slots; at 1 and above the queue grows for ever."""
        return self.arrivals_per_s / self.completions_per_s[-1]

    @property
    def stable(self) -> bool:
        """Whether the queue has a finite mean length."""
        return self.utilisation < 1

    @cached_property
    def wait_probability(self) -> float:
        """The share of requests that have to wait; 1 if the queue grows for ever."""
        if not self.stable:
            return 1.0
        # In an infinite queue, the state "c slots busy" is followed by the states with 1, 2, …
        # requests waiting; their probabilities are a geometric series.
        full = self._full_share
        return full / (full + (1 - full) * (1 - self.utilisation))

    @property
    def mean_wait_s(self) -> float:
        """The mean wait of all requests, seconds; of those, too, that need not wait."""
        return self.wait_probability / self._spare_completions_per_s if self.stable else math.inf

    def wait_quantile_s(self, quantile: float) -> float:
        """The wait that is not exceeded by this share of all requests, seconds."""
        if not self.stable:
            return math.inf
        if self.wait_probability <= 1 - quantile:
            return 0.0
        return math.log(self.wait_probability / (1 - quantile)) / self._spare_completions_per_s

    def queue_length_probability(self, length: int) -> float:
        """The share of requests that find at least ``length`` others waiting."""
        if not self.stable:
            return 1.0
        return self.wait_probability * math.pow(self.utilisation, length)

    @cached_property
    def mean_busy_slots(self) -> float:
        """How many slots are busy, on average."""
        if not self.stable:
            return float(self.slots)
        mean = 0.0
        for busy_slots, share in enumerate(self._shares[:-1], 1):
            mean += share * (busy_slots - mean)
        return self.wait_probability * self.slots + (1 - self.wait_probability) * mean

    @property
    def mean_in_slot_s(self) -> float:
        """Mean seconds that a request keeps its slot, by Little's law (Little 1961)."""
        if not self.arrivals_per_s:
            return 1 / self.completions_per_s[0]
        return self.mean_busy_slots / min(self.arrivals_per_s, self.completions_per_s[-1])

    @property
    def _spare_completions_per_s(self) -> float:
        return self.completions_per_s[-1] - self.arrivals_per_s

    @cached_property
    def _shares(self) -> list[float]:
        """For n = 1 … c: how likely all of n slots are busy, if no request waited for one.

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
