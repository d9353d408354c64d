"""How far ahead of playback audio is sent.

A listener plays what was sent at one second a second, from the moment it got the first of it.
What it has not played yet is the lead: enough of it rides out the network's moods, and no more
of it is wanted, since a change is heard only once the lead has been played.

Invariant: after :meth:`Pacer.clear_to_send`, sending the block leaves at most ``lead_s`` ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pacer:
    """The playback clock of one listener.

    Args:
      lead_s: The most that is sent ahead of playback, seconds.
      clock: Monotonic seconds.
      on_underrun: Called for each.
    """

    def __init__(
        self,
        lead_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_underrun: Callable[[], None] = lambda: None,
    ) -> None:
        self.lead_s = lead_s
        self.underruns = 0
        self._clock = clock
        self._on_underrun = on_underrun
        self._sent_s = 0.0
        self._played_at_s: float | None = None  # the clock when playback was at 0; None unstarted
        self._paused_at_s: float | None = None

    @property
    def lead(self) -> float:
        """Seconds sent and not played yet; negative while the listener waits."""
        if self._played_at_s is None:
            return self._sent_s
        return self._sent_s - (self._now() - self._played_at_s)

    def due_in(self, block_s: float) -> float:
        """Seconds until a block of so many seconds may be sent; 0 if it may be now.

        A block never waits longer than until all before it was played, however long it is.
        """
        if self._played_at_s is None:
            return 0.0
        return max(0.0, self.lead - max(0.0, self.lead_s - block_s))

    async def clear_to_send(self, block_s: float) -> None:
        """Waits until a block of so many seconds may be sent, if nobody pauses meanwhile."""
        await asyncio.sleep(self.due_in(block_s))

    def sent(self, block_s: float) -> None:
        """Notes that a block has left; the first one starts the clock."""
        now = self._now()
        if self._played_at_s is None:
            self._played_at_s = now
        elif self.lead < 0:
            self.underruns += 1
            self._on_underrun()
            self._played_at_s = now - self._sent_s  # the listener stood still meanwhile
        self._sent_s += block_s

    def pause(self) -> None:
        """Stops the playback clock; nothing happens if it stands already."""
        if self._paused_at_s is None:
            self._paused_at_s = self._clock()

    def resume(self) -> None:
        """Lets the playback clock go on."""
        if self._paused_at_s is not None and self._played_at_s is not None:
            self._played_at_s += self._clock() - self._paused_at_s
        self._paused_at_s = None

    def _now(self) -> float:
        """The clock, which stands while the listener pauses."""
        return self._clock() if self._paused_at_s is None else self._paused_at_s
