"""Charges a client for music while it is made, a slice at a time and in advance.

Invariant: what was played never exceeds what was charged, and what was charged in vain is less
than one slice.
"""

from __future__ import annotations

import math

from magenta_bento.access.rate_limits import Limits

SLICE_S = 10
# Sums are rounded: a plain sum of floats would pass a slice's end before the music does.
_DECIMALS_S = 6


class AudioBudget:
    """Charges one request or connection to its client's budget of seconds of music.

    Args:
      limits: Holds the budgets of all clients.
      client: The id of the client that is charged.
    """

    def __init__(self, limits: Limits, client: str) -> None:
        self._limits = limits
        self._client = client
        self._whole_s = math.inf
        self._reserved_s = 0.0
        self._charged_s = 0

    async def check(self, seconds: float | None) -> None:
        """Refuses music for which the budget is too small.

        Args:
          seconds: How long it is to be; None for music without an end, of which one slice must
            be left.

        Raises:
          AudioBudgetSpent: The budget is too small.
          LimitsUnknown: The store is down, and the setting says that nothing passes then.
        """
        self._whole_s = math.inf if seconds is None else seconds
        await self._limits.check_audio(self._client, SLICE_S if seconds is None else seconds)

    async def charge(self, seconds: float) -> None:
        """Charges for a whole piece; raises as :meth:`check`."""
        await self._limits.spend_audio(self._client, seconds)

    async def reserve(self, seconds: float) -> None:
        """Charges for what is about to be played; raises as :meth:`check`."""
        self._reserved_s = round(self._reserved_s + seconds, _DECIMALS_S)
        while self._reserved_s > self._charged_s:
            left_s = max(self._whole_s, self._reserved_s) - self._charged_s
            slice_s = math.ceil(min(SLICE_S, left_s))
            await self._limits.spend_audio(self._client, slice_s)
            self._charged_s += slice_s
