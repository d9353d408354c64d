"""How fast refusals leave, so that who floods the server does not take it from who plays.

To refuse costs about a millisecond of the one thread that also feeds every live stream. A client
that asks again as soon as it is refused would have that thread to itself. So refusals beyond a
rate are held back for a moment, and such a client with them (OWASP Authentication Cheat Sheet:
"Login Throttling"). The first ones of a burst leave at once: who mistypes a key notices nothing.

Invariant: no refusal waits longer than ``LONGEST_S``.
"""

from __future__ import annotations

import asyncio
import time

LONGEST_S = 1.0
BURST_S = 0.5  # the refusals of so much time may leave at once


class RefusalThrottle:
    """Delays refusals beyond a rate: a token bucket (Turner 1986) that waits instead of dropping.

    Args:
      per_s: Refusals a second; 0 for any number.
    """

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s if per_s else 0.0
        self._next = 0.0  # when the next one may leave, by time.monotonic

    async def wait(self) -> None:
        """Returns when the caller's refusal may leave."""
        now = time.monotonic()
        delay_s = min(LONGEST_S, self._next - now)
        # A refusal that waits the longest books no turn, else a flood would fill the next hours.
        if delay_s < LONGEST_S:
            self._next = max(self._next, now - BURST_S) + self._interval_s
        if delay_s > 0:
            await asyncio.sleep(delay_s)
