"""One listener's live music: an endless stream that is steered, paused and reset.

    IDLE ──start──> PLAYING <──pause/resume──> PAUSED
      ^                │                          │
      └─────stop───────┴──────────────────────────┘

Both live protocols (``jam`` and ``lyria``) are built on this.

Invariant: audio leaves in whole frames, in order and at most ``lead_s`` ahead of playback, and
a change is announced with the very frame from which it is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum

import numpy as np

from magenta_bento.access.budget import AudioBudget
from magenta_bento.audio.formats import FRAME_S, FRAME_SAMPLES, FRAMES_PER_SECOND
from magenta_bento.audio.pcm import Pcm
from magenta_bento.engine.engine import Engine
from magenta_bento.engine.stream import Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.live.crossfade import Crossfade, Steering, crossfade
from magenta_bento.live.pacing import Pacer
from magenta_bento.prompting import Prompter
from magenta_bento.timeline import constant

ENGINE_LEAD_SHARE = 4  # of the lead, this part waits in the engine instead of with the listener
MAX_ENGINE_LEAD_FRAMES = 10


class State(Enum):
    IDLE = "idle"
    PLAYING = "playing"
    PAUSED = "paused"


class LiveSession:
    """The live music of one listener, whatever protocol steers it.

    Args:
      engine: Makes the stream.
      prompter: Has the tokens of the styles on the way of a fade.
      client: Whose turn it is in the engine's queue.
      budget: Charges for what is sent.
      on_stream: Told of each stream that begins, with its place in the queue.
      on_underrun: Told each time that the listener's music has run dry.
    """

    def __init__(
        self,
        engine: Engine,
        prompter: Prompter,
        client: str,
        budget: AudioBudget,
        on_stream: Callable[[Stream, int | None], None],
        on_underrun: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._prompter = prompter
        self._client = client
        self._budget = budget
        self._on_stream = on_stream
        self._on_underrun = on_underrun
        self._stream: Stream | None = None
        self._pacer = Pacer(0.0)
        self._fade: Crossfade | None = None
        self._fade_began = 0  # frame
        self._running = asyncio.Event()
        self._frames_sent = 0

    @property
    def state(self) -> State:
        if self._stream is None:
            return State.IDLE
        return State.PLAYING if self._running.is_set() else State.PAUSED

    @property
    def frames_sent(self) -> int:
        return self._frames_sent

    @property
    def lead_s(self) -> float:
        return max(0.0, self._pacer.lead)

    @property
    def underruns(self) -> int:
        return self._pacer.underruns

    @property
    def real_time_factor(self) -> float:
        return self._engine.real_time_factor

    @property
    def queue_position(self) -> int | None:
        return None if self._stream is None else self._engine.position(self._stream)

    async def start(self, steering: Steering, seed: int, lead_s: float) -> None:
        """Begins to play from a fresh context.

        Raises:
          ServiceError: The engine refuses.
        """
        await self.stop()
        self._engine.check_room()
        await self._budget.check(None)
        lead_frames = max(3, round(lead_s * FRAMES_PER_SECOND))
        in_engine = min(MAX_ENGINE_LEAD_FRAMES, max(1, lead_frames // ENGINE_LEAD_SHARE))
        spec = StreamSpec(
            constant(steering.style.tokens, steering.controls),
            seed,
            frames=None,
            lead_frames=in_engine,
            client=self._client,
            live=True,
        )
        self._stream = self._engine.submit(spec, asyncio.get_running_loop())
        self._on_stream(self._stream, self.queue_position)
        lead = (lead_frames - in_engine) * FRAME_S
        self._pacer = Pacer(lead, on_underrun=self._on_underrun)
        self._fade, self._fade_began = crossfade(None, steering, 0), 0
        self._frames_sent = 0
        self._running.set()

    @property
    def steering(self) -> Steering | None:
        """Where the last change leads, whether or not it has faded in."""
        return None if self._fade is None else self._fade.new

    async def steer(self, new: Steering, ramp_s: float = 0.0) -> int:
        """Changes what the music is made from; returns the frame from which that is heard."""
        stream = self._playing()
        fading = self._fade
        now = None if fading is None else fading.embedding_at(stream.next_frame - self._fade_began)
        wanted = crossfade(now, new, ramp_s)
        frame = await stream.steer(await wanted.timeline(self._prompter))
        self._fade, self._fade_began = wanted, frame
        return frame

    async def reset(self, seed: int) -> int:
        """Forgets what was played; returns the first frame of the new context."""
        return await self._playing().reset(seed)

    def pause(self) -> int:
        """Sends nothing more; returns the frame that comes next."""
        self._playing()
        self._running.clear()
        self._pacer.pause()
        return self._frames_sent

    def resume(self) -> int:
        self._playing()
        self._pacer.resume()
        self._running.set()
        return self._frames_sent

    async def stop(self) -> None:
        """Ends the music and frees its slot; the session can start again."""
        if self._stream is not None:
            self._stream.cancel()
        self._stream = None
        self._running.set()  # a reader that waits for resume must see the end

    async def chunks(self, chunk_frames: int) -> AsyncIterator[Pcm]:
        """Chunks of as many frames, int16 [chunk_frames * 1920, 2], when they should be sent.

        Ends when the session stops.

        Raises:
          ServiceError: The stream failed, or the client's budget is spent.
        """
        stream = self._playing()
        pacer = self._pacer
        kept: list[Pcm] = []
        async for block in stream.blocks():
            for frame in np.split(block, len(block) // FRAME_SAMPLES):
                kept.append(frame)
                if len(kept) < chunk_frames:
                    continue
                chunk_s = len(kept) * FRAME_S
                await self._clear_to_send(pacer, chunk_s)
                if self._stream is not stream:
                    return
                await self._budget.reserve(chunk_s)
                # Counted before it leaves: a pause meanwhile comes after this chunk.
                self._frames_sent += len(kept)
                yield np.concatenate(kept)
                pacer.sent(chunk_s)
                kept = []

    async def _clear_to_send(self, pacer: Pacer, chunk_s: float) -> None:
        """Waits until a chunk is due, and for as long as the session is paused."""
        await self._running.wait()
        while (wait_s := pacer.due_in(chunk_s)) > 0:
            await asyncio.sleep(wait_s)
            await self._running.wait()  # the clock stood still meanwhile

    def _playing(self) -> Stream:
        if self._stream is None:
            raise RuntimeError("the session does not play")
        return self._stream
