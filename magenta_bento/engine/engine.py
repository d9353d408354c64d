"""The engine: many streams on one device.

One thread owns the device and does, for ever:

1. admit: give free slots to waiting streams, into a larger batch if need be;
2. step: advance every stream that is due, and don't wait for the audio;
3. deliver: hand over the audio of the step before, while the device works on this one;
4. retire: end what is complete or cancelled, and shrink the batch when it stays too large.

Weights are read once a step for all streams, which is where throughput comes from.

Invariant: a stream's audio depends on its own request alone. If a step fails, the streams in
the batch are told and the state is made anew; if that fails too, the engine is dead: every
stream is told, and ``on_death`` is called once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from magenta_bento.engine.queue import FairQueue
from magenta_bento.engine.slots import Slots
from magenta_bento.engine.stream import FRAME_S, FRAME_SAMPLES, Phase, Stream, StreamSpec
from magenta_bento.errors import GenerationFailed, NotReady, Overloaded, ServiceError
from magenta_bento.metrics import Metrics
from magenta_bento.model.protocol import Audio, Model

log = logging.getLogger("magenta_bento")

SHRINK_AFTER_STEPS = 25  # a batch that was too large for so long is made smaller
FAILURES_UNTIL_DEATH = 3  # in a row
IDLE_WAIT_S = 1.0  # only a net under a lost wake-up: work wakes the thread at once
RETRY_AFTER_RANGE_S = (1, 600)
THROUGHPUT_MEMORY = 0.9  # of the moving average, a step


@dataclass(frozen=True)
class Dispatched:
    """A step whose audio has not been fetched yet."""

    audio: Audio
    owners: Sequence[tuple[int, Stream]]  # active rows and who owned them then
    frames: int
    started: float


class Engine:
    """See the module.

    Args:
      model: What makes the frames.
      queue_bound: The most streams that wait; one more is refused with a Retry-After.
      metrics: Where to count.
      on_death: Called on the device thread, once, after every stream was told.
    """

    def __init__(
        self,
        model: Model,
        *,
        queue_bound: int,
        metrics: Metrics,
        on_death: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._on_death = on_death
        self._queue = FairQueue(queue_bound)
        self._lock = threading.Lock()  # guards the queue and the two flags below
        self._closed: ServiceError | None = None  # why nobody is admitted any more
        self._stop = False
        self._work = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        # The device thread's own.
        self._slots = Slots(model.batch_sizes[0])
        self._state = model.init_state(len(self._slots))
        self._steps_too_large = 0
        self._failures = 0
        self._frames_per_s = 0.0
        self._last_fetched = 0.0
        metrics.slots.set(self.capacity)

    @property
    def capacity(self) -> int:
        """The most streams that play at once."""
        return self._model.batch_sizes[-1]

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._closed is None

    @property
    def active(self) -> int:
        return self._slots.busy

    @property
    def waiting(self) -> int:
        with self._lock:
            return len(self._queue)

    # From any thread.

    def start(self) -> None:
        self._thread.start()

    def submit(self, spec: StreamSpec, loop: asyncio.AbstractEventLoop) -> Stream:
        """Admits a stream, to be read on ``loop``.

        Raises:
          Overloaded: The queue is full.
          NotReady: The engine drains or died.
        """
        stream = Stream(spec, loop, self._work.set)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if self._queue.full:
                self._metrics.refused.labels("queue_full").inc()
                raise Overloaded(
                    f"the queue is full: {self._queue.bound} requests wait already",
                    retry_after_s=self._retry_after_s(),
                )
            self._queue.push(stream)
            self._idle.clear()
            self._metrics.queue_length.set(len(self._queue))
        self._work.set()
        return stream

    def position(self, stream: Stream) -> int | None:
        """How many are served before a waiting stream; None if it does not wait."""
        with self._lock:
            return self._queue.position(stream)

    def drain(self, grace_s: float) -> bool:
        """Refuses new streams and lets the others finish; blocks.

        Returns:
          True if all of them finished within the grace period.
        """
        with self._lock:
            self._closed = self._closed or NotReady(
                "the server is shutting down", retry_after_s=RETRY_AFTER_RANGE_S[0]
            )
        return self._idle.wait(grace_s)

    def stop(self) -> None:
        """Ends the device thread; streams that still play or wait are told. Blocks."""
        self.drain(0)
        with self._lock:
            self._stop = True
        self._work.set()
        if self._thread.is_alive():
            self._thread.join()

    # The device thread.

    def _run(self) -> None:
        pending: Dispatched | None = None
        try:
            while not self._stop:
                try:
                    self._admit()
                    dispatched = self._step()
                    self._deliver(pending)
                    pending = dispatched
                    self._retire()
                except Exception as error:
                    pending = None
                    self._recover(error)
                if pending is None:
                    self._rest()
        except Exception as error:
            log.critical("the engine died: %s", error, exc_info=True)
            self._fail_all(GenerationFailed("the engine failed; the server restarts"))
            self._on_death(error)
        else:
            self._fail_all(NotReady("the server is shutting down"))

    def _admit(self) -> None:
        with self._lock:
            for stream in self._queue.remove_cancelled():
                self._end(stream, Phase.CANCELLED)
            room = self.capacity - self._slots.busy
            admitted = [self._queue.pop() for _ in range(min(room, len(self._queue)))]
            self._metrics.queue_length.set(len(self._queue))
        for placed, stream in enumerate(admitted):
            try:
                self._place(stream)
            except Exception:
                # Those not yet in a slot are in no batch that _recover could fail.
                for orphan in admitted[placed:]:
                    self._end(orphan, Phase.FAILED, GenerationFailed("the model failed to start"))
                raise

    def _place(self, stream: Stream) -> None:
        if self._slots.busy == len(self._slots):
            self._resize(self._slots.busy + 1)
        row = self._slots.free_row()
        if row is None:
            raise RuntimeError("a batch that was just enlarged has no free slot")
        self._state = self._model.insert(self._state, row, stream.spec.seed)
        self._slots.take(row, stream)
        stream.enter(Phase.PLAYING)
        self._metrics.queue_wait_seconds.observe(stream.timing.waited_s)
        self._metrics.active_streams.set(self._slots.busy)

    def _step(self) -> Dispatched | None:
        frames = self._step_length()
        due = [(row, stream) for row, stream in self._slots.occupied() if _due(stream, frames)]
        if not due:
            return None
        started = time.perf_counter()
        inputs = self._slots.inputs([row for row, _ in due], frames)
        self._state, audio = self._model.step(self._state, inputs)
        for _, stream in due:
            stream.schedule(frames)
        self._metrics.batch_occupancy.observe(len(due) / len(self._slots))
        return Dispatched(audio, due, frames, started)

    def _step_length(self) -> int:
        """As long as the model can, but no longer than the longest need or the smallest lead."""
        wanted = [n for _, s in self._slots.occupied() if (n := s.frames_to_schedule) is not None]
        rooms = [r for _, s in self._slots.occupied() if (r := s.room) is not None and r > 0]
        longest = max(wanted, default=self._model.max_frames)
        return max(1, min([self._model.max_frames, longest, *rooms]))

    def _deliver(self, done: Dispatched | None) -> None:
        if done is None:
            return
        audio = done.audio.fetch()  # int16 [B, frames * 1920, 2]
        now = time.perf_counter()
        # The device may have been busy with the step before when this one was dispatched.
        elapsed_s = now - max(done.started, self._last_fetched)
        self._last_fetched = now
        self._failures = 0
        heard = 0
        for row, stream in done.owners:
            if stream.phase is Phase.PLAYING:  # else it ended meanwhile: the audio is stale
                heard += stream.deliver(audio[row, : done.frames * FRAME_SAMPLES])
        self._metrics.frames.inc(heard)
        self._metrics.step_frame_seconds.observe(elapsed_s / done.frames)
        rate = len(done.owners) * done.frames / max(elapsed_s, 1e-6)
        memory = THROUGHPUT_MEMORY if self._frames_per_s else 0.0
        self._frames_per_s = memory * self._frames_per_s + (1 - memory) * rate

    def _retire(self) -> None:
        for row, stream in list(self._slots.occupied()):
            if stream.complete:
                self._release(row, stream, Phase.FINISHED)
            elif stream.cancel_requested:
                self._release(row, stream, Phase.CANCELLED)
        fitting = self._fitting(max(1, self._slots.busy + self.waiting))
        self._steps_too_large = self._steps_too_large + 1 if fitting < len(self._slots) else 0
        if self._steps_too_large > SHRINK_AFTER_STEPS:
            self._resize(max(1, self._slots.busy))

    def _release(
        self, row: int, stream: Stream, phase: Phase, error: ServiceError | None = None
    ) -> None:
        self._slots.release(row)
        self._end(stream, phase, error)
        self._metrics.active_streams.set(self._slots.busy)

    def _end(self, stream: Stream, phase: Phase, error: ServiceError | None = None) -> None:
        stream.enter(phase, error)
        self._metrics.streams.labels(phase.value).inc()
        if stream.timing.first_block is not None:
            waited_s = stream.timing.first_block - stream.timing.admitted
            self._metrics.first_frame_seconds.observe(waited_s)
        if phase is Phase.FINISHED and stream.timing.in_slot_s > 0:
            self._metrics.real_time_factor.observe(
                stream.frames_made * FRAME_S / stream.timing.in_slot_s
            )

    def _resize(self, streams: int) -> None:
        """Moves to the smallest batch that holds so many streams."""
        slots, rows = self._slots.compacted(self._fitting(streams))
        if len(slots) != len(self._slots):
            self._state = self._model.resize(self._state, rows, len(slots))
            self._slots = slots
        self._steps_too_large = 0

    def _fitting(self, streams: int) -> int:
        return next((b for b in self._model.batch_sizes if b >= streams), self.capacity)

    def _rest(self) -> None:
        """Waits until there is something to do."""
        with self._lock:
            nobody = not len(self._queue) and not self._slots.busy
            if nobody:
                self._idle.set()
        if any(_due(stream, 1) for _, stream in self._slots.occupied()):
            return
        self._work.wait(IDLE_WAIT_S)
        self._work.clear()

    def _recover(self, error: Exception) -> None:
        """Tells the streams of a failed step and starts from a fresh state.

        Raises:
          Exception: ``error`` again, when the model fails for good.
        """
        self._metrics.step_failures.inc()
        self._failures += 1
        log.error("a step failed (%d in a row): %s", self._failures, error, exc_info=True)
        for row, stream in list(self._slots.occupied()):
            failure = GenerationFailed("the model failed while it made this audio")
            self._release(row, stream, Phase.FAILED, failure)
        if self._failures >= FAILURES_UNTIL_DEATH:
            raise error
        # The failed step has used up the state's buffers.
        self._slots = Slots(self._model.batch_sizes[0])
        self._state = self._model.init_state(len(self._slots))

    def _fail_all(self, error: ServiceError) -> None:
        with self._lock:
            self._closed = error
            waiting = self._queue.waiting()
            self._queue = FairQueue(self._queue.bound)
            self._metrics.queue_length.set(0)
        for stream in waiting:
            self._end(stream, Phase.FAILED, error)
        for row, stream in list(self._slots.occupied()):
            self._release(row, stream, Phase.FAILED, error)
        self._idle.set()

    def _retry_after_s(self) -> int:
        """When a slot is next due to fall free, from what is left to make and measured speed."""
        low, high = RETRY_AFTER_RANGE_S
        left = [n for _, s in self._slots.occupied() if (n := s.frames_to_schedule) is not None]
        if not left or not self._frames_per_s:
            return low
        frames_per_s = self._frames_per_s / self._slots.busy  # of one stream
        return min(high, max(low, math.ceil(min(left) / frames_per_s)))


def _due(stream: Stream, frames: int) -> bool:
    """Whether a step of so many frames should advance this stream."""
    if stream.cancel_requested:
        return False
    if stream.frames_to_schedule is not None and stream.frames_to_schedule <= 0:
        return False
    return stream.room is None or stream.room >= frames
