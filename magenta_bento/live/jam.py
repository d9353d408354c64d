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
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocketDisconnect

from magenta_bento.audio.encode import encode_off_loop, make_stream_encoder
from magenta_bento.audio.formats import StreamFormat
from magenta_bento.audio.tags import Tags
from magenta_bento.engine.spec import seed_or_random
from magenta_bento.errors import InvalidInput, Problem, ServiceError, SlowReader, shorten
from magenta_bento.live import messages
from magenta_bento.live.connection import Connection
from magenta_bento.live.protocol import LiveProtocol
from magenta_bento.live.session import LiveSession, State
from magenta_bento.live.steering import Steering
from magenta_bento.prompting import Prompter
from magenta_bento.style import Embedding, blend

STATS_EVERY_S = 1.0
MAX_MESSAGE_CHARS = 9_000_000
LONG_CHARS = 50_000  # parsing so many takes about a tenth of a millisecond
NULLABLE = ("drums", "notes")  # null in an update leaves them to the model

T = TypeVar("T")


class Jam(LiveProtocol):
    """One connection.

    Args:
      connection: Accepted already.
      session: Makes its music.
      prompter: Turns prompts into styles.
      model: The model's name, to be told.
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
        if isinstance(answer, messages.Started):
            self.play(self._send_audio(answer))

    async def _do(self, message: messages.ClientMessage) -> BaseModel:
        session = self.session
        match message:
            case messages.Ping():
                return messages.Pong(id=message.id)
            case messages.Start():
                return await self._start(message)
            case _ if session.state is State.IDLE:
                raise InvalidInput("nothing plays: the first message is start")
            case messages.Update():
                frame = await self._update(message)
            case messages.Pause():
                frame = session.pause()
            case messages.Resume():
                frame = session.resume()
            case messages.Reset():
                frame = await session.reset(seed_or_random(message.seed))
            case messages.Stop():
                frame = session.frames_sent
                await self.stop()
        return messages.Ack(of=message.type, id=message.id, frame=frame)

    async def _start(self, start: messages.Start) -> messages.Started:
        style = await self._style(start.prompts)
        await self.stop()
        steering = Steering(
            style, start.temperature, start.top_k, start.guidance, start.drums, start.notes
        )
        seed = seed_or_random(start.seed)
        await self.session.start(steering, seed, start.lead_ms / 1000)
        return messages.Started(
            id=start.id,
            seed=seed,
            model=self._model,
            format=start.format,
            chunk_ms=start.chunk_ms,
            lead_ms=start.lead_ms,
        )

    async def _update(self, update: messages.Update) -> int:
        new = self.session.steering
        if new is None:
            raise RuntimeError("a session that plays has a steering")
        for name in ("temperature", "top_k", "guidance", "drums", "notes"):
            value = getattr(update, name)
            if value is not None or (name in NULLABLE and name in update.model_fields_set):
                new = replace(new, **{name: value})
        if update.prompts is not None:
            new = replace(new, style=await self._style(update.prompts))
        return await self.session.steer(new, update.ramp)

    async def _style(self, prompts: Sequence[messages.Prompt]) -> Embedding:
        parts = [await self._embedded(prompt, i) for i, prompt in enumerate(prompts)]
        return blend(parts, [prompt.weight for prompt in prompts], "prompts")

    async def _embedded(self, prompt: messages.Prompt, index: int) -> Embedding:
        if prompt.text is not None:
            return await self._prompter.text(prompt.text)
        if prompt.audio_id is not None:
            return self._prompter.stored_audio_prompt(prompt.audio_id)
        field = f"prompts[{index}].audio"
        try:
            data = await _off_loop(_from_base64, prompt.audio or "")
        except ValueError:  # what is wrong in base64, or is not even ASCII
            raise InvalidInput.field(field, "must be base64") from None
        return await self._prompter.audio(io.BytesIO(data), field)

    async def _send_audio(self, started: messages.Started) -> None:
        encoder = make_stream_encoder(
            StreamFormat(started.format), Tags(title="jam", artist=self._model)
        )
        telling = asyncio.create_task(self._tell_stats())
        try:
            async for pcm in self.session.chunks(started.chunk_ms // messages.FRAME_MS):
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

    def _stats(self) -> messages.Stats:
        session = self.session
        return messages.Stats(
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
    known = isinstance(message_id, str) and len(message_id) <= messages.MAX_ID_CHARS
    return message_id if known else None


def _parsed(raw: str | bytes) -> messages.ClientMessage:
    if len(raw) > MAX_MESSAGE_CHARS:
        raise InvalidInput(f"a message has at most {MAX_MESSAGE_CHARS:,} characters")
    try:
        return messages.CLIENT.validate_json(raw)
    except ValidationError as error:
        problems = [
            Problem(
                ".".join(str(part) for part in e["loc"][1:]),
                e["msg"].removeprefix("Value error, "),
                shorten(e["input"]),
            )
            for e in error.errors()
        ]
        told = "; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems)
        raise InvalidInput(f"the message can't be understood: {told}", problems=problems) from None


def _error(error: ServiceError, message_id: str | None, *, fatal: bool) -> messages.Error:
    told = error.as_dict()
    return messages.Error(
        id=message_id,
        error=told["error"],
        error_type=told["type"],
        detail=told["detail"],
        fatal=fatal,
    )
