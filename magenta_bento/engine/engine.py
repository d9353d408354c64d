"""The engine: many streams on one device.

One thread owns the device and does, for ever:

1. admit: give free slots to waiting streams, into a larger batch if need be;
2. steer: take in what listeners changed;
3. step: advance every stream that is due, and don't wait for the audio;
4. deliver: hand over the audio of the step before, while the device works on this one;
5. retire: end what is complete or cancelled, and shrink the batch when it stays too large.

Weights are read once a step for all streams, which is where throughput comes from.

Invariant: a stream's audio depends on its own request alone. If a step fails, the streams in
the batch are told and the state is made anew; if that fails too, or a step never returns, the
engine is dead: every stream is told, and ``on_death`` is called once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from magenta_bento.audio.formats import FRAME_S, FRAME_SAMPLES
from magenta_bento.engine.batch import Batch, Dispatched
from magenta_bento.engine.statistics import EngineStatistics
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.engine.wait_queue import WaitQueue
from magenta_bento.engine.watchdog import LIMIT_S, Watchdog
from magenta_bento.errors import GenerationFailed, NotReady, ServiceError
from magenta_bento.metrics import Metrics
from magenta_bento.model.protocol import Model

log = logging.getLogger("magenta_bento")

FAILURES_UNTIL_DEATH = 3  # in a row
IDLE_WAIT_S = 1.0  # only a net under a lost wake-up: work wakes the thread at once


class Engine:
    """Plays many streams at once on one device, by a thread of its own.

    Args:
      model: What makes the frames.
      queue_bound: The most streams that wait while no slot is free; one more is refused with a
        Retry-After.
      metrics: Where to count.
      on_death: Called once, after every stream was told, on the device thread, or on another
        if that one hangs.
    """

    def __init__(
        self,
        model: Model,
        *,
        queue_bound: int,
        metrics: Metrics,
        on_death: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._batch = Batch(model)
        self._on_death = on_death
        self._statistics = EngineStatistics(metrics)
        self._wait_queue = WaitQueue(queue_bound, self.capacity, metrics)
        self._stop = False
        self._ended = threading.Event()  # every stream was told; the device thread may hang
        self._ending = threading.Lock()
        self._work = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._watchdog = Watchdog(self._hung)
        self._hangs = False
        # The device thread's own.
        self._placing: Stream | None = None  # on its way from the queue into a slot
        self._failures = 0
        metrics.slots.set(self.capacity)

    @property
    def capacity(self) -> int:
        """The most streams that play at once."""
        return self._batch.capacity

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._wait_queue.open

    @property
    def active(self) -> int:
        return self._batch.busy

    @property
    def waiting(self) -> int:
        return len(self._wait_queue)

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio per second that each stream got of late; 0 before the first step."""
        return self._statistics.frames_per_s * FRAME_S / max(1, self._batch.busy)

    # From any thread.

    def start(self) -> None:
        self._thread.start()
        self._watchdog.start()

    def submit(self, spec: StreamSpec, loop: asyncio.AbstractEventLoop) -> Stream:
        """Admits a stream, to be read on ``loop``.

        Raises:
          Overloaded: The queue is full.
          NotReady: The engine drains or died.
        """
        stream = Stream(spec, loop, self._work.set)
        playing = self._playing()
        self._wait_queue.push(stream, len(playing), self._statistics.retry_after_s(playing))
        self._idle.clear()  # after the push: _rest looks at the queue again once it has set it
        self._work.set()
        return stream

    def check_room(self) -> None:
        """Raises what :meth:`submit` would raise now, before work is done for nothing."""
        playing = self._playing()
        self._wait_queue.check(len(playing), self._statistics.retry_after_s(playing))

    def wait_s(self, stream: Stream) -> float | None:
        """Seconds until a waiting stream gets a slot, at the speed of late.

        None if it does not wait, or waits for those who play without an end.
        """
        before = self._wait_queue.before(stream)
        if before is None:
            return None
        return self._statistics.wait_s(self._playing(), before, self.capacity)

    def position(self, stream: Stream) -> int | None:
        """How many are served before a waiting stream; None if it does not wait."""
        before = self._wait_queue.before(stream)
        return None if before is None else len(before)

    def _playing(self) -> list[Stream]:
        return [stream for _, stream in self._batch.occupied()]

    def drain(self, grace_s: float) -> bool:
        """Refuses new streams and lets the others finish; blocks.

        Returns:
          True if all of them finished within the grace period.
        """
        self._wait_queue.close(NotReady.shutting_down())
        return self._idle.wait(grace_s)

    def stop(self) -> None:
        """Ends the device thread; streams that still play or wait are told. Blocks."""
        self.drain(0)
        self._stop = True
        self._work.set()
        if self._thread.is_alive():
            self._ended.wait()
            self._thread.join(0 if self._hangs else None)
        self._watchdog.stop()

    # The device thread.

    def _run(self) -> None:
        pending: Dispatched | None = None
        try:
            while not self._stop:
                self._watchdog.heartbeat()
                try:
                    self._admit()
                    self._steer()
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
            self._die(error)
        else:
            self._end_all(NotReady.shutting_down())

    def _hung(self) -> None:
        self._hangs = True
        self._die(TimeoutError(f"the device has not answered for {LIMIT_S:g} s"))

    def _die(self, error: Exception) -> None:
        log.critical("the engine died: %s", error, exc_info=error)
        if self._end_all(GenerationFailed("the engine failed; the server restarts")):
            self._on_death(error)

    def _admit(self) -> None:
        for stream in self._wait_queue.remove_cancelled():
            self._end(stream, Phase.CANCELLED)
        while self._batch.busy < self.capacity and (waiting := self._wait_queue.pop()) is not None:
            self._placing = waiting  # it is in no slot yet, where others would find it
            try:
                self._place(waiting)
            except Exception:
                failure = GenerationFailed("the model failed as this audio was to start")
                self._end(waiting, Phase.FAILED, failure)
                raise
            finally:
                self._placing = None

    def _place(self, stream: Stream) -> None:
        self._batch.place(stream)
        stream.enter(Phase.PLAYING)
        self._statistics.stream_started(stream)
        self._count()

    def _steer(self) -> None:
        for stream in self._wait_queue.waiting():
            stream.apply_changes()  # its seed is used when it gets a slot
        self._batch.steer()

    def _step(self) -> Dispatched | None:
        dispatched = self._batch.step()
        if dispatched is not None:
            share = len(dispatched.owners) / len(self._batch)
            self._statistics.metrics.batch_occupancy.observe(share)
        return dispatched

    def _deliver(self, done: Dispatched | None) -> None:
        if done is None:
            return
        audio = done.audio.fetch()  # int16 [B, frames * 1920, 2]
        self._failures = 0
        heard = 0
        for row, stream in done.owners:
            if stream.phase is Phase.PLAYING:  # else it ended meanwhile: the audio is stale
                heard += stream.deliver(audio[row, : done.frames * FRAME_SAMPLES])
        self._statistics.step_finished(done.started, done.frames, len(done.owners), heard)

    def _retire(self) -> None:
        for row, stream in list(self._batch.occupied()):
            if stream.complete:
                self._release(row, stream, Phase.FINISHED)
            elif stream.cancel_requested:
                self._release(row, stream, Phase.CANCELLED)
        self._batch.shrink_if_oversized(self.waiting)

    def _release(
        self, row: int, stream: Stream, phase: Phase, error: ServiceError | None = None
    ) -> None:
        self._batch.release(row)
        self._end(stream, phase, error)
        self._count()

    def _end(self, stream: Stream, phase: Phase, error: ServiceError | None = None) -> None:
        # First, so that who reads a stream's end finds it counted.
        self._statistics.stream_ended(stream, phase)
        stream.enter(phase, error)

    def _count(self) -> None:
        self._statistics.metrics.active_streams.set(self._batch.busy)

    def _rest(self) -> None:
        """Waits until there is something to do."""
        busy, waiting = self._batch.busy, self.waiting
        if not waiting and not busy:
            self._idle.set()
            if self.waiting:  # one came between the two
                self._idle.clear()
        if waiting and busy < self.capacity:  # a slot fell free after _admit
            return
        if self._batch.has_due():
            return
        self._watchdog.idle()
        self._work.wait(IDLE_WAIT_S)
        self._work.clear()

    def _recover(self, error: Exception) -> None:
        """Tells the streams of a failed step and starts from a fresh state.

        Raises:
          Exception: ``error`` again, when the model fails for good.
        """
        self._statistics.metrics.step_failures.inc()
        self._failures += 1
        log.error("a step failed (%d in a row): %s", self._failures, error, exc_info=True)
        for row, stream in list(self._batch.occupied()):
            failure = GenerationFailed("the model failed while it made this audio")
            self._release(row, stream, Phase.FAILED, failure)
        if self._failures >= FAILURES_UNTIL_DEATH:
            raise error
        # The failed step has used up the state's buffers.
        self._batch.reset()

    def _end_all(self, error: ServiceError) -> bool:
        """Tells every stream that the engine ends; False if another thread has done it."""
        with self._ending:
            if self._ended.is_set():
                return False
            self._stop = True
            self._watchdog.idle()
            placing = [self._placing] if self._placing else []
            for stream in [*self._wait_queue.clear(error), *placing]:
                self._end(stream, Phase.FAILED, error)
            for row, stream in list(self._batch.occupied()):
                self._release(row, stream, Phase.FAILED, error)
            self._idle.set()
            self._ended.set()
        return True
