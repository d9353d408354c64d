"""Streams that wait for a slot.

Live streams go before offline ones: somebody listens for their first sound. Within each kind,
clients take turns (round robin; Nagle 1987, "On packet switches with infinite storage"), so
that one who asks for a hundred pieces delays another's first by one, not by a hundred. Within
a client it is first come, first served.

Invariant: never longer than its bound, and who waits is told in the order of service.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import zip_longest

from magenta_bento.engine.stream import Stream


class FairQueue:
    """A bounded queue with turns. Not thread-safe: the engine's lock guards it.

    Args:
      bound: The most streams that wait. The engine refuses what is beyond it.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._live = _Turns()
        self._offline = _Turns()

    def __len__(self) -> int:
        return len(self._live) + len(self._offline)

    @property
    def full(self) -> bool:
        return len(self) >= self.bound

    def push(self, stream: Stream) -> None:
        """Adds a stream to the end of its client's line.

        Raises:
          OverflowError: The queue is full.
        """
        if self.full:
            raise OverflowError(f"the queue holds {self.bound} streams already")
        (self._live if stream.spec.live else self._offline).push(stream)

    def pop(self) -> Stream:
        """Takes the next stream; its client goes to the end of the turns.

        Raises:
          IndexError: Nobody waits.
        """
        return (self._live if len(self._live) else self._offline).pop()

    def remove_cancelled(self) -> list[Stream]:
        """Takes out every stream whose reader went away."""
        return self._live.remove_cancelled() + self._offline.remove_cancelled()

    def waiting(self) -> list[Stream]:
        """All of them, in the order in which they would be served if nobody else came."""
        return self._live.waiting() + self._offline.waiting()


class _Turns:
    """Lines of streams, one a client, that are served in turn."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Stream]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def push(self, stream: Stream) -> None:
        self._lines.setdefault(stream.spec.client, deque()).append(stream)

    def pop(self) -> Stream:
        if not self._lines:
            raise IndexError("nobody waits")
        client, line = self._lines.popitem(last=False)
        stream = line.popleft()
        if line:
            self._lines[client] = line
        return stream

    def remove_cancelled(self) -> list[Stream]:
        """Takes out every stream whose reader went away."""
        gone: list[Stream] = []
        for client in list(self._lines):
            kept: deque[Stream] = deque()
            for stream in self._lines[client]:
                # Asked once: a reader may cancel at any time, and each stream goes one way.
                (gone if stream.cancel_requested else kept).append(stream)
            if kept:
                self._lines[client] = kept
            else:
                del self._lines[client]
        return gone

    def waiting(self) -> list[Stream]:
        rounds = zip_longest(*self._lines.values())
        return [stream for turn in rounds for stream in turn if stream is not None]
