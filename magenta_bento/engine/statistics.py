"""What the engine has made, and how fast: metrics, and what can be promised from them.

Invariant: only the device thread writes here; others read a number that is current or just past.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.metrics import Metrics

RETRY_AFTER_RANGE_S = (1, 600)
EWMA_DECAY = 0.9  # weight of the past in the moving average of the speed, at each step


class EngineStatistics:
    """Metrics of the engine, its measured speed, and waits estimated from it.

    Args:
      metrics: Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.frames_per_s = 0.0  # of all streams together, of late
        self._last_fetched = 0.0

    def stream_started(self, stream: Stream) -> None:
        """A stream got a slot."""
        self.metrics.queue_wait_seconds.observe(stream.timing.waited_s)

    def step_finished(self, started: float, frames: int, streams: int, heard: int) -> None:
        """A step's audio arrived.

        Args:
          started: When it was dispatched, by ``time.perf_counter``.
          frames: How many frames it advanced.
          streams: How many streams it advanced.
          heard: How many frames reached a listener.
        """
        now = time.perf_counter()
        # The device may have been busy with the step before when this one was dispatched.
        elapsed_s = max(now - max(started, self._last_fetched), 1e-6)
        self._last_fetched = now
        decay = EWMA_DECAY if self.frames_per_s else 0.0
        rate = streams * frames / elapsed_s
        self.frames_per_s = decay * self.frames_per_s + (1 - decay) * rate
        self.metrics.frames.inc(heard)
        self.metrics.step_frame_seconds.observe(elapsed_s / frames)

    def stream_ended(self, stream: Stream, phase: Phase) -> None:
        """A stream is about to end."""
        self.metrics.streams.labels(phase.value).inc()
        timing = stream.timing
        if timing.first_block is not None:
            self.metrics.first_frame_seconds.observe(timing.first_block - timing.admitted)
        if phase is Phase.FINISHED and timing.in_slot_s > 0:
            rtf = stream.frames_made * FRAME_S / timing.in_slot_s
            self.metrics.real_time_factor.observe(rtf)

    def retry_after_s(self, playing: Sequence[Stream]) -> int:
        """When a slot is next due to fall free, from what is left to make and measured speed."""
        low, high = RETRY_AFTER_RANGE_S
        wait_s = self.wait_s(playing, [], len(playing))
        return low if wait_s is None else min(high, max(low, math.ceil(wait_s)))

    def wait_s(
        self, playing: Sequence[Stream], before: Sequence[Stream], slots: int
    ) -> float | None:
        """Seconds until a slot falls free for who comes after ``before``.

        Each stream is taken to go on at the speed that one had of late, and each slot that
        falls free to go to the next who waits. None if nothing is known: no step was made yet,
        or the slots are held by music without an end.
        """
        if len(playing) + len(before) < slots:
            return 0.0
        if not self.frames_per_s:
            return None
        frames_per_s = self.frames_per_s / max(1, len(playing))  # of one stream
        free_at = [_frames_left(stream) / frames_per_s for stream in playing]
        free_at += [0.0] * (slots - len(playing))
        heapq.heapify(free_at)
        for stream in before:
            heapq.heapreplace(free_at, free_at[0] + _frames_left(stream) / frames_per_s)
        return free_at[0] if free_at and math.isfinite(free_at[0]) else None


def _frames_left(stream: Stream) -> float:
    frames = stream.frames_to_schedule
    return math.inf if frames is None else frames
