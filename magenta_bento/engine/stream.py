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
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from magenta_bento.conditioning import Conditioning
from magenta_bento.errors import ServiceError

Pcm = NDArray[np.int16]  # [N, 2] at 48 kHz

FRAME_SAMPLES = 1_920
FRAME_S = 0.04
WARM_UP_FRAMES = 1  # the codec looks one frame ahead: a fresh stream's first frame is silence


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


@dataclass(frozen=True)
class StreamSpec:
    """What is asked of the engine.

    Attributes:
      conditioning: What every frame is conditioned on, until it is replaced.
      seed: Of the stream's own random key; 0 to 2^32 - 1.
      frames: How many audible frames; None for as long as somebody listens.
      lead_frames: How many unread frames may lie ready before the stream stands still; None
        for all of them, which only a stream with an end may ask for.
      client: Who asks; waiting streams take turns by client.
    """

    conditioning: Conditioning
    seed: int
    frames: int | None
    lead_frames: int | None = None
    client: str = ""

    def __post_init__(self) -> None:
        if self.frames is None and self.lead_frames is None:
            raise ValueError("an endless stream needs lead_frames: its buffer must be bounded")


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
        self.conditioning = spec.conditioning
        self.error: ServiceError | None = None
        self.cancel_requested = False
        self._loop = loop
        self._tell_engine = tell_engine
        self._news = asyncio.Event()
        # Bounded by lead_frames, or by the stream's own length: the engine stops stepping a
        # stream whose reader is that far behind, and nothing is dropped.
        self._blocks: deque[Pcm] = deque()
        self._frames_scheduled = 0  # warm-up included
        self._frames_delivered = 0  # likewise
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
            self.cancel_requested = True
            self._tell_engine()

    @property
    def frames_made(self) -> int:
        """Audible frames delivered so far."""
        return max(0, self._frames_delivered - WARM_UP_FRAMES)

    # The engine's side, on the device thread.

    @property
    def frames_total(self) -> int | None:
        """Frames to step in all, warm-up included."""
        return None if self.spec.frames is None else self.spec.frames + WARM_UP_FRAMES

    @property
    def frames_to_schedule(self) -> int | None:
        return None if self.frames_total is None else self.frames_total - self._frames_scheduled

    @property
    def room(self) -> int | None:
        """How many more frames may be made before the reader takes some; None for any."""
        if self.spec.lead_frames is None:
            return None
        ahead = self._frames_scheduled - WARM_UP_FRAMES - self._frames_read
        return self.spec.lead_frames - ahead

    def schedule(self, frames: int) -> None:
        """Notes that a step was dispatched which advances this stream."""
        self._frames_scheduled += frames

    def deliver(self, pcm: Pcm) -> int:
        """Hands over a step's audio; what is beyond the stream's end is cut off.

        Args:
          pcm: int16 [N * 1920, 2].

        Returns:
          How many audible frames were new.
        """
        start = self._frames_delivered
        end = start + len(pcm) // FRAME_SAMPLES
        if self.frames_total is not None:
            end = min(end, self.frames_total)
        self._frames_delivered = end
        audible = max(start, WARM_UP_FRAMES)
        if end <= audible:
            return 0
        if self.timing.first_block is None:
            self.timing.first_block = time.monotonic()
        # A copy: the step's buffer holds all streams, and a slow reader would keep it alive.
        self._blocks.append(
            pcm[(audible - start) * FRAME_SAMPLES : (end - start) * FRAME_SAMPLES].copy()
        )
        self._wake()
        return end - audible

    @property
    def complete(self) -> bool:
        return self.frames_total is not None and self._frames_delivered >= self.frames_total

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
        self._wake()

    def _wake(self) -> None:
        # A loop that is closed has no reader left; the stream ends by its cancel request.
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            self.cancel_requested = True
