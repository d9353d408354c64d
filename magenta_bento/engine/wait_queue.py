"""Who may wait for a slot, and whose turn it is; shared by all threads.

Invariant: a stream is either refused with a reason, or waits, or was handed to the device
thread; after :meth:`WaitQueue.close` nobody new waits.
"""

from __future__ import annotations

import threading

from magenta_bento.engine.queue import FairQueue
from magenta_bento.engine.stream import Stream
from magenta_bento.errors import Overloaded, ServiceError
from magenta_bento.metrics import Metrics


class WaitQueue:
    """The engine's queue behind a lock.

    Args:
      bound: The most streams that wait while no slot is free.
      capacity: The most streams that play.
      metrics: Where to count.
    """

    def __init__(self, bound: int, capacity: int, metrics: Metrics) -> None:
        self._bound = bound
        self._capacity = capacity
        self._metrics = metrics
        self._lock = threading.Lock()
        # Those who only wait for the next step boundary, with a slot free for them, don't count
        # against the bound. Full, it refuses.
        self._queue = FairQueue(bound + capacity)
        self._closed: ServiceError | None = None

    def __len__(self) -> int:
        with self._lock:
            return len(self._queue)

    @property
    def open(self) -> bool:
        return self._closed is None

    def push(self, stream: Stream, playing: int, retry_after_s: int) -> None:
        """Lets a stream wait.

        Args:
          playing: How many streams play now.
          retry_after_s: What to tell one who is refused.

        Raises:
          Overloaded: The queue is full.
          ServiceError: What :meth:`close` was told.
        """
        with self._lock:
            self._check(playing, retry_after_s)
            self._queue.push(stream)
            self._count()

    def check(self, playing: int, retry_after_s: int) -> None:
        """Raises what :meth:`push` would raise now."""
        with self._lock:
            self._check(playing, retry_after_s)

    def pop(self) -> Stream | None:
        """The next stream to play; None if nobody waits."""
        with self._lock:
            if not len(self._queue):
                return None
            stream = self._queue.pop()
            self._count()
            return stream

    def remove_cancelled(self) -> list[Stream]:
        with self._lock:
            gone = self._queue.remove_cancelled()
            self._count()
            return gone

    def waiting(self) -> list[Stream]:
        with self._lock:
            return self._queue.waiting()

    def before(self, stream: Stream) -> list[Stream] | None:
        """Who is served before a waiting stream, in order; None if it does not wait."""
        waiting = self.waiting()
        return waiting[: waiting.index(stream)] if stream in waiting else None

    def close(self, error: ServiceError) -> None:
        """Refuses everybody from now on, with this error; the first one stays."""
        with self._lock:
            self._closed = self._closed or error

    def clear(self, error: ServiceError) -> list[Stream]:
        """Closes with this error and sends everybody away who waits."""
        with self._lock:
            self._closed = error
            waiting = self._queue.waiting()
            self._queue = FairQueue(self._queue.bound)
            self._count()
            return waiting

    def _check(self, playing: int, retry_after_s: int) -> None:
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # or it would grow with every refusal
        if len(self._queue) >= self._bound + self._capacity - playing:
            self._metrics.refused.labels("queue_full").inc()
            raise Overloaded(
                f"the queue is full: {self._bound} requests wait already",
                retry_after_s=retry_after_s,
            )

    def _count(self) -> None:
        self._metrics.queue_length.set(len(self._queue))
