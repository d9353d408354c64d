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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum

from magenta_bento.audio.formats import FRAME_SAMPLES
from magenta_bento.audio.pcm import Pcm
from magenta_bento.conditioning import Conditioning
from magenta_bento.engine.spec import WARM_UP_FRAMES, Plan, StreamSpec
from magenta_bento.errors import NotReady, ServiceError


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
      plan: Conditioning from the frame on at which it is applied; None leaves it.
      seed: A fresh musical context with this seed; None keeps the present one.
      applied: Gets the first frame from which it is heard.
    """

    plan: Plan | None
    seed: int | None
    applied: asyncio.Future[int]


class Stream:
    """See the module. Made by :meth:`magenta_bento.engine.engine.Engine.submit`.

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
        self._plan: Plan = ((0, spec.conditioning),)
        self._plan_began = 0  # audible frame
        self._steps_scheduled = 0  # of one frame each, silent ones included
        self._steps_delivered = 0  # likewise
        self._silent_steps = deque(range(WARM_UP_FRAMES))  # not delivered yet
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

    async def steer(self, plan: Plan) -> int:
        """Replaces the conditioning; returns the frame from which that is heard.

        Raises:
          ServiceError: The stream ended first.
        """
        return await self._change(plan, None)

    async def reset(self, seed: int) -> int:
        """Forgets what was played; returns the first frame of the new context.

        Raises:
          ServiceError: The stream ended first.
        """
        return await self._change(None, seed)

    async def _change(self, plan: Plan | None, seed: int | None) -> int:
        change = Change(plan, seed, self._loop.create_future())
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
    def conditioning(self) -> Conditioning:
        """What the next step is conditioned on."""
        since = self.next_frame - self._plan_began
        return [of for offset, of in self._plan if offset <= max(since, 0)][-1]

    @property
    def frames_to_schedule(self) -> int | None:
        """Frames still to be stepped, silent ones included; None without an end."""
        if self.spec.frames is None:
            return None
        silences = self._silences_past + len(self._silent_steps)
        return max(0, self.spec.frames + silences - self._steps_scheduled)

    @property
    def room(self) -> int | None:
        """How many more frames may be made before the reader takes some; None for any."""
        if self.spec.lead_frames is None:
            return None
        silent = sum(1 for step in self._silent_steps if step >= self._steps_scheduled)
        return self.spec.lead_frames - (self.next_frame - self._frames_read) + silent

    def apply_changes(self) -> bool:
        """Takes what the reader asked for; returns whether a fresh context is due."""
        afresh = False
        while self._changes:
            change = self._changes.popleft()
            if change.plan is not None:
                self._plan, self._plan_began = change.plan, self.next_frame
            if change.seed is not None:
                afresh, self.seed = True, change.seed
                if self._steps_scheduled not in self._silent_steps:
                    # The codec's first frame after a fresh start is silence again.
                    self._silent_steps.append(self._steps_scheduled)
            self._tell(change.applied, self.next_frame)
        return afresh

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
                self._silent_steps.popleft()
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
        while self._changes:
            over = self.error or NotReady("the stream ended before the change was made")
            self._tell(self._changes.popleft().applied, over)

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
