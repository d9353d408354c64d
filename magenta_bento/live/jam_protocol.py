"""/ws/jam: a jam with the model, by messages of ``messages``.

Every message is answered, in order. One that can't be done gets an error and the music goes
on; an error that ends the music ends the connection too, with the close code of the error table.

Invariant: an answer names the very frame from which its message is heard.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocketDisconnect

from magenta_bento.audio.encode import encode_off_loop, make_stream_encoder
from magenta_bento.audio.formats import FRAME_MS, StreamFormat
from magenta_bento.audio.tags import Tags
from magenta_bento.controls import seed_or_random
from magenta_bento.errors import InvalidInput, Problem, ServiceError, SlowReader, shorten
from magenta_bento.live import jam_messages
from magenta_bento.live.connection import Connection
from magenta_bento.live.crossfade import Steering
from magenta_bento.live.protocol import LiveProtocol
from magenta_bento.live.session import LiveSession, State
from magenta_bento.prompting import (
    AudioSource,
    Prompter,
    PromptSource,
    StoredAudioSource,
    TextSource,
)
from magenta_bento.style import Style

STATS_EVERY_S = 1.0
MAX_MESSAGE_CHARS = 9_000_000
LONG_CHARS = 50_000  # parsing so many takes about a tenth of a millisecond

T = TypeVar("T")


class Jam(LiveProtocol):
    """One connection.

    Args:
      connection: Accepted already.
      session: Makes its music.
      prompter: Turns prompts into styles.
      model: The model's name, for the answer to ``start``.
    """

    def __init__(
        self, connection: Connection, session: LiveSession, prompter: Prompter, model: str
    ) -> None:
        super().__init__(connection, session)
        self._prompter = prompter
        self._model = model

    async def handle_message(self, raw: str | bytes) -> None:
        try:
            answer = await self._do(await _off_loop(_parsed, raw))
        except InvalidInput as error:
            message_id = await _off_loop(_id_of, raw)
            await self._say(_error(error, message_id, fatal=False))
            return
        await self._say(answer)
        if isinstance(answer, jam_messages.Started):
            self.play(self._send_audio(answer))

    async def _do(self, message: jam_messages.ClientMessage) -> BaseModel:
        session = self.session
        match message:
            case jam_messages.Ping():
                return jam_messages.Pong(id=message.id)
            case jam_messages.Start():
                return await self._start(message)
            case _ if session.state is State.IDLE:
                raise InvalidInput("nothing plays: the first message is start")
            case jam_messages.Update():
                frame = await self._update(message)
            case jam_messages.Pause():
                frame = session.pause()
            case jam_messages.Resume():
                frame = session.resume()
            case jam_messages.Reset():
                frame = await session.reset(seed_or_random(message.seed))
            case jam_messages.Stop():
                frame = session.frames_sent
                await self.stop()
        return jam_messages.Ack(of=message.type, id=message.id, frame=frame)

    async def _start(self, start: jam_messages.Start) -> jam_messages.Started:
        style = await self._style(start.prompts)
        await self.stop()
        steering = Steering(style, start.controls())
        seed = seed_or_random(start.seed)
        await self.session.start(steering, seed, start.lead_ms / 1000)
        return jam_messages.Started(
            id=start.id,
            seed=seed,
            model=self._model,
            format=start.format,
            chunk_ms=start.chunk_ms,
            lead_ms=start.lead_ms,
        )

    async def _update(self, update: jam_messages.Update) -> int:
        old = self.session.steering
        if old is None:
            raise RuntimeError("a session that plays has a steering")
        style = old.style if update.prompts is None else await self._style(update.prompts)
        new = Steering(style, old.controls.changed(update.changes()))
        return await self.session.steer(new, update.ramp)

    async def _style(self, prompts: Sequence[jam_messages.Prompt]) -> Style:
        parts = [await self._source(prompt, i) for i, prompt in enumerate(prompts)]
        return await self._prompter.blend(parts, [prompt.weight for prompt in prompts], "prompts")

    async def _source(self, prompt: jam_messages.Prompt, index: int) -> PromptSource:
        if prompt.text is not None:
            return TextSource(prompt.text)
        if prompt.audio_id is not None:
            return StoredAudioSource(prompt.audio_id)
        field = f"prompts[{index}].audio"
        try:
            data = await _off_loop(_from_base64, prompt.audio or "")
        except ValueError:  # what is wrong in base64, or is not even ASCII
            raise InvalidInput.field(field, "must be base64") from None
        return AudioSource(io.BytesIO(data), field)

    async def _send_audio(self, started: jam_messages.Started) -> None:
        tags = Tags(title="jam", artist=self._model)
        encoder = make_stream_encoder(StreamFormat(started.format), tags)
        telling = asyncio.create_task(self._tell_stats())
        try:
            async for pcm in self.session.chunks(started.chunk_ms // FRAME_MS):
                data = await encode_off_loop(encoder, pcm)
                if data:
                    await self.connection.send_bytes(data)
        finally:
            telling.cancel()

    async def _tell_stats(self) -> None:
        """Says how it goes, also while it waits for a slot or is paused."""
        with suppress(SlowReader, WebSocketDisconnect):  # others find that out, and end it
            while True:
                await self._say(self._stats())
                await asyncio.sleep(STATS_EVERY_S)

    def _stats(self) -> jam_messages.Stats:
        session = self.session
        return jam_messages.Stats(
            frame=session.frames_sent,
            lead_ms=round(1000 * session.lead_s),
            rtf=round(session.real_time_factor, 2),
            underruns=session.underruns,
            queue=session.queue_position,
        )

    async def _say(self, message: BaseModel) -> None:
        await self.connection.send_text(message.model_dump_json())

    async def send_error(self, error: ServiceError) -> None:
        await self._say(_error(error, None, fatal=True))


async def _off_loop(work: Callable[[Any], T], text: str | bytes) -> T:
    """Does something with a text, in a thread if it is a long one."""
    if len(text) < LONG_CHARS:
        return work(text)
    return await asyncio.to_thread(work, text)


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _id_of(raw: str | bytes) -> str | None:
    """The id of a message that may be wrong otherwise; None if it has none that can come back."""
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    message_id = message.get("id") if isinstance(message, dict) else None
    known = isinstance(message_id, str) and len(message_id) <= jam_messages.MAX_ID_CHARS
    return message_id if known else None


def _parsed(raw: str | bytes) -> jam_messages.ClientMessage:
    if len(raw) > MAX_MESSAGE_CHARS:
        raise InvalidInput(f"a message has at most {MAX_MESSAGE_CHARS:,} characters")
    try:
        return jam_messages.CLIENT.validate_json(raw)
    except ValidationError as error:
        problems = [
            Problem(
                ".".join(str(part) for part in e["loc"][1:]),
                e["msg"].removeprefix("Value error, "),
                shorten(e["input"]),
            )
            for e in error.errors()
        ]
        reasons = "; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems)
        raise InvalidInput(
            f"the message can't be understood: {reasons}", problems=problems
        ) from None


def _error(error: ServiceError, message_id: str | None, *, fatal: bool) -> jam_messages.Error:
    body = error.as_dict()
    return jam_messages.Error(
        id=message_id,
        error=body["error"],
        error_type=body["type"],
        detail=body["detail"],
        fatal=fatal,
    )
