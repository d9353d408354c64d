"""One listener's music, from admission to its last frame.

A stream is the only thing that the device thread and the event loop share. The device thread
delivers blocks and ends it; the event loop reads blocks and may cancel it.

    WAITING ──> PLAYING ──> FINISHED
       │           ├──────> FAILED
       └───────────┴──────> CANCELLED     (WAITING ──> FAILED when the engine dies)

Invariant: a stream ends exactly once, and what it delivers before it ends is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from magenta_bento.audio.formats import FRAME_SAMPLES
from magenta_bento.audio.pcm import Pcm
from magenta_bento.engine.stream_spec import LOOKAHEAD_FRAMES, StreamSpec
from magenta_bento.errors import InvalidInput, NotReady, ServiceError
from magenta_bento.timeline import Timeline


class Phase(Enum):
    WAITING = "waiting"
    PLAYING = "playing"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (Phase.FINISHED, Phase.CANCELLED, Phase.FAILED)


_NEXT = {
    Phase.WAITING: {Phase.PLAYING, Phase.CANCELLED, Phase.FAILED},
    Phase.PLAYING: {Phase.FINISHED, Phase.CANCELLED, Phase.FAILED},
}


@dataclass
class Timing:
    """When what happened, on the monotonic clock, seconds."""

    admitted: float = field(default_factory=time.monotonic)
    playing: float | None = None
    first_block: float | None = None
    ended: float | None = None

    @property
    def waited_s(self) -> float:
        return (self.playing or self.ended or time.monotonic()) - self.admitted

    @property
    def in_slot_s(self) -> float:
        if self.playing is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.playing


@dataclass(frozen=True)
class Change:
    """What a reader asked of a stream that plays.

    Attributes:
      timeline: What follows, counted from the row at which it is applied; None leaves it.
      row: The row of the stream's timeline at which it is to be applied, or None for the next
        one; one that was read already becomes the next one.
      seed: A fresh musical context with this seed; None keeps the present one.
      applied: Gets the first frame from which it is heard.
    """

    timeline: Timeline | None
    row: int | None
    seed: int | None
    applied: asyncio.Future[int]


class Stream:
    """The music of one listener; made by :meth:`magenta_bento.engine.engine.Engine.submit`.

    The reader's methods are called on its event loop, the engine's on the device thread.

    Args:
      spec: What was asked for.
      loop: The event loop of the reader.
      tell_engine: Wakes the device thread; called when the reader has taken or cancelled.
    """

    def __init__(
        self, spec: StreamSpec, loop: asyncio.AbstractEventLoop, tell_engine: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.timing = Timing()
        self.phase = Phase.WAITING
        self.seed = spec.seed
        self.error: ServiceError | None = None
        self._cancelled = False
        self._loop = loop
        self._tell_engine = tell_engine
        self._news = asyncio.Event()
        # Bounded by lead_frames, or by the stream's own length: the engine stops stepping a
        # stream whose reader is that far behind, and nothing is dropped.
        self._blocks: deque[Pcm] = deque()
        # Bounded by the reader, which waits for each change to be applied.
        self._changes: deque[Change] = deque()
        self.timeline = spec.timeline  # row t is that of the codes of audible frame t
        self._steps_scheduled = 0  # of one frame each, silent ones included
        self._steps_delivered = 0  # likewise
        # Not delivered yet. Replaced, never changed: the reader's thread looks at it too.
        self._silent_steps = tuple(range(LOOKAHEAD_FRAMES))
        self._silences_past = 0
        self._frames_read = 0  # audible ones only

    # The reader's side, on the event loop.

    async def blocks(self) -> AsyncIterator[Pcm]:
        """Audible blocks of whole frames, int16 [N * 1920, 2], until the stream ends.

        Raises:
          ServiceError: The stream failed; what came before it was delivered.
        """
        try:
            while True:
                self._news.clear()
                while self._blocks:
                    block = self._blocks.popleft()
                    self._frames_read += len(block) // FRAME_SAMPLES
                    if self.spec.lead_frames is not None:
                        self._tell_engine()
                    yield block
                if self.phase.ended and not self._blocks:
                    break
                await self._news.wait()
        finally:
            self.cancel()  # a reader that goes away needs no more; after the end it is nothing
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        """Asks for the end; the slot is free at the next step boundary."""
        if not self.phase.ended:
            self._cancelled = True
            self._tell_engine()

    @property
    def cancel_requested(self) -> bool:
        """Whether the reader went away, alone or with its event loop."""
        return self._cancelled or self._loop.is_closed()

    @property
    def frames_made(self) -> int:
        """Audible frames delivered so far."""
        return self._steps_delivered - self._silences_past

    async def steer(self, timeline: Timeline, row: int | None = None) -> int:
        """Replaces what follows; returns the frame from which that is heard.

        Args:
          timeline: What follows.
          row: The frame whose codes are the first to be drawn by it; None, or one whose codes are
            drawn already, is as soon as can be.

        Raises:
          ServiceError: The stream ended first.
        """
        return await self._change(timeline, row, None)

    async def reset(self, seed: int) -> int:
        """Forgets what was played; returns the first frame of the new context.

        Raises:
          ServiceError: The stream ended first.
        """
        return await self._change(None, None, seed)

    async def _change(self, timeline: Timeline | None, row: int | None, seed: int | None) -> int:
        change = Change(timeline, row, seed, self._loop.create_future())
        self._changes.append(change)
        if self.phase.ended:
            self._refuse_changes()
        self._tell_engine()
        return await change.applied

    # The engine's side, on the device thread.

    @property
    def next_frame(self) -> int:
        """The audible frame that the next step makes."""
        silent = sum(1 for step in self._silent_steps if step < self._steps_scheduled)
        return self._steps_scheduled - self._silences_past - silent

    @property
    def next_row(self) -> int:
        """The row of the timeline that the next step's first frame reads.

        The step that makes an audible frame draws the codes of the one after it; only the first
        step of a fresh context makes nothing audible yet.
        """
        if self._steps_scheduled in self._silent_steps:
            return self.next_frame
        return self.next_frame + LOOKAHEAD_FRAMES

    @property
    def frames_to_schedule(self) -> int | None:
        """Frames still to be stepped, silent ones included; None without an end."""
        if self.spec.frames is None:
            return None
        silences = self._silences_past + len(self._silent_steps)
        return max(0, self.spec.frames + silences - self._steps_scheduled)

    @property
    def buffer_space(self) -> int | None:
        """How many more frames may be made before the reader takes some; None for any."""
        if self.spec.lead_frames is None:
            return None
        silent = sum(1 for step in self._silent_steps if step >= self._steps_scheduled)
        return self.spec.lead_frames - (self.next_frame - self._frames_read) + silent

    def apply_changes(self) -> bool:
        """Takes what the reader asked for; returns whether a fresh context is due."""
        changes = list(self._take_changes())
        seeds = [change.seed for change in changes if change.seed is not None]
        if seeds:
            self.seed = seeds[-1]
            if self._steps_scheduled not in self._silent_steps:
                # The codec's first frame after a fresh start is silence again.
                self._silent_steps = (*self._silent_steps, self._steps_scheduled)
        for change in changes:
            self._tell(change.applied, self._steered(change))
        return bool(seeds)

    def _steered(self, change: Change) -> int | ServiceError:
        """Takes in what follows; the frame from which it is heard, or why it can't be."""
        if change.timeline is None:
            return self.next_frame
        row = self.next_row if change.row is None else max(self.next_row, change.row)
        try:
            self.timeline = self.timeline.spliced(row, change.timeline, self.next_row)
        except ValueError as error:  # this stream's fault: the others' step must not fail for it
            return InvalidInput(str(error))
        return max(self.next_frame, row - LOOKAHEAD_FRAMES)

    def schedule(self, frames: int) -> None:
        """Notes that a step was dispatched which advances this stream."""
        self._steps_scheduled += frames

    def deliver(self, pcm: Pcm) -> int:
        """Hands over a step's audio; silent frames and what is beyond the end are cut out.

        Args:
          pcm: int16 [N * 1920, 2].

        Returns:
          How many audible frames were new.
        """
        frames = pcm.reshape(-1, FRAME_SAMPLES, pcm.shape[1])
        first = self._steps_delivered
        self._steps_delivered += len(frames)
        audible = []
        for step in range(first, self._steps_delivered):
            if self._silent_steps and self._silent_steps[0] == step:
                self._silent_steps = self._silent_steps[1:]
                self._silences_past += 1
            else:
                audible.append(step - first)
        if self.spec.frames is not None:
            beyond = max(0, self.frames_made - self.spec.frames)
            self._steps_delivered -= beyond
            audible = audible[: len(audible) - beyond]
        if not audible:
            return 0
        if self.timing.first_block is None:
            self.timing.first_block = time.monotonic()
        # A copy: the step's buffer holds all streams, and a slow reader would keep it alive.
        self._blocks.append(frames[audible].reshape(-1, pcm.shape[1]))
        self._wake()
        return len(audible)

    @property
    def complete(self) -> bool:
        return self.spec.frames is not None and self.frames_made >= self.spec.frames

    def enter(self, phase: Phase, error: ServiceError | None = None) -> None:
        """Moves on.

        Raises:
          RuntimeError: The stream's life has no such step.
        """
        allowed = _NEXT.get(self.phase, set())
        if phase not in allowed:
            expected = ", ".join(sorted(p.value for p in allowed)) or "nothing"
            raise RuntimeError(
                f"a {self.phase.value} stream can become {expected}, not {phase.value}"
            )
        if phase is Phase.PLAYING:
            self.timing.playing = time.monotonic()
        if phase.ended:
            self.timing.ended = time.monotonic()
        self.error = error
        self.phase = phase
        if phase.ended:
            self._refuse_changes()
        self._wake()

    def _refuse_changes(self) -> None:
        for change in self._take_changes():
            over = self.error or NotReady("the stream ended before the change was made")
            self._tell(change.applied, over)

    def _take_changes(self) -> Iterator[Change]:
        """Takes out the changes one by one; both threads may do so at once when a stream ends."""
        with contextlib.suppress(IndexError):  # the other thread may have taken the last one
            while True:
                yield self._changes.popleft()

    def _tell(self, waiting: asyncio.Future[int], answer: int | ServiceError) -> None:
        def resolve() -> None:
            if waiting.done():
                return
            if isinstance(answer, int):
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(resolve)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
            self._loop.call_soon_threadsafe(self._news.set)
