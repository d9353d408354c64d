"""Lyria RealTime's protocol: the same sessions, for apps that were written for Google's.

1. ``setup`` is answered by ``setupComplete``; clients don't wait for it.
2. Prompts and configuration may come in any order, before or while playing.
3. PLAY starts or goes on, PAUSE holds, STOP forgets the context and keeps the rest,
   RESET_CONTEXT forgets it while playing.

Invariant: every frame to the client is binary and holds at most a second of audio.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from magenta_bento.controls import Controls, seed_or_random
from magenta_bento.errors import InvalidInput, ServiceError
from magenta_bento.live.connection import Connection
from magenta_bento.live.crossfade import Steering
from magenta_bento.live.lyria_messages import (
    SETUP_COMPLETE,
    MusicGenerationConfig,
    WeightedPrompt,
    audio_chunk,
    parsed,
)
from magenta_bento.live.protocol import LiveProtocol
from magenta_bento.live.session import LiveSession, State
from magenta_bento.prompting import Prompter, TextSource
from magenta_bento.style import Style

DEFAULTS = Controls(temperature=1.1, top_k=40, guidance=4.0)  # Lyria's, which its clients count on
LEAD_S = 2.0
CHUNK_FRAMES = 10  # 0.4 s; Lyria sends 2 s, which would be heard as delay
RAMP_S = 0.4  # prompts come as often as a slider moves: a short fade makes steps inaudible
MAX_SOURCES = 64


class Lyria(LiveProtocol):
    """One connection.

    Args:
      connection: Accepted already.
      session: Makes its music.
      prompter: Turns prompts into styles.
    """

    def __init__(self, connection: Connection, session: LiveSession, prompter: Prompter) -> None:
        super().__init__(connection, session)
        self._prompter = prompter
        self._set_up = False
        self._prompts: list[WeightedPrompt] = []
        self._style: Style | None = None
        self._config = MusicGenerationConfig()
        self._wants_to_play = False  # PLAY may come before the first prompt
        # What the music is made from, and from which frame on; the oldest is forgotten first.
        self._sources: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MAX_SOURCES)

    async def handle_message(self, raw: str | bytes) -> None:
        message = parsed(raw)
        if message.setup is not None:
            self._set_up = True
            await self.connection.send_bytes(SETUP_COMPLETE)
        if not self._set_up:
            raise InvalidInput("the first message is setup")
        if message.client_content is not None:
            await self._take_prompts(message.client_content.weighted_prompts or [])
        if message.music_generation_config is not None:
            self._config = message.music_generation_config
            await self._steer()
        if message.playback_control is not None:
            await self._control(message.playback_control)

    async def send_error(self, error: ServiceError) -> None:
        """Nothing: some clients break on a message without audio; the close reason says it."""

    async def _take_prompts(self, prompts: list[WeightedPrompt]) -> None:
        # An app's slider at 0 means "none of this", as its own docs have it.
        heard = [prompt for prompt in prompts if prompt.weight_or_default != 0]
        if not heard:
            raise InvalidInput("weightedPrompts must hold a prompt whose weight is not 0")
        self._style = await self._prompter.blend(
            [TextSource(prompt.text) for prompt in heard],
            [prompt.weight_or_default for prompt in heard],
            "weightedPrompts",
        )
        self._prompts = heard
        await self._steer()
        if self._wants_to_play and self.session.state is State.IDLE:
            await self._play()

    async def _control(self, control: str) -> None:
        if control == "PLAY":
            await self._play()
        elif control == "PAUSE":
            self._wants_to_play = False
            if self.session.state is State.PLAYING:
                self.session.pause()
        elif control == "STOP":
            self._wants_to_play = False
            await self.stop()
        elif control == "RESET_CONTEXT" and self.session.state is not State.IDLE:
            await self.session.reset(self._seed())

    async def _play(self) -> None:
        self._wants_to_play = True
        if self.session.state is State.PAUSED:
            self.session.resume()
        elif self.session.state is State.IDLE and (steering := self._steering()) is not None:
            await self.session.start(steering, self._seed(), LEAD_S)
            self._sources.clear()
            self._sources.append((0, self._source()))
            self.play(self._send_audio())

    async def _steer(self) -> None:
        steering = self._steering()
        if steering is not None and self.session.state is not State.IDLE:
            frame = await self.session.steer(steering, RAMP_S)
            self._sources.append((frame, self._source()))

    def _steering(self) -> Steering | None:
        if self._style is None:
            return None
        return Steering(self._style, self._config.controls(DEFAULTS))

    def _seed(self) -> int:
        return seed_or_random(self._config.seed)

    async def _send_audio(self) -> None:
        async for pcm in self.session.chunks(CHUNK_FRAMES):
            while len(self._sources) > 1 and self._sources[1][0] < self.session.frames_sent:
                self._sources.popleft()
            await self.connection.send_bytes(audio_chunk(pcm, self._sources[0][1]))

    def _source(self) -> dict[str, Any]:
        """What the music is made from: only what has an effect."""
        prompts = [
            {"text": prompt.text, "weight": prompt.weight_or_default} for prompt in self._prompts
        ]
        return {
            "clientContent": {"weightedPrompts": prompts},
            "musicGenerationConfig": self._config.set_fields(),
        }
