"""Clients of a soak: those who want music, and those who leave before they have it.

A visit is a coroutine that deals with the server once and returns what came of it in a word or
two, such as "200" or "401 unauthorized".

Invariant: a visit's choices come from its own random generator alone, and it leaves no
connection open.
"""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
import numpy as np
import soundfile
import websockets

from magenta_bento.audio.formats import FRAME_SAMPLES, SAMPLE_RATE_HZ, frames_for

LYRIA = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateMusic"
PATIENCE_S = 120.0
FRAME_BYTES = 4 * FRAME_SAMPLES  # of pcm
LEFT, PLAYED = "left", "played"
FILES = ("mp3", "wav", "flac", "ogg")
STREAMS = ("mp3", "wav", "ogg", "pcm")


@dataclass(frozen=True)
class Visit:
    """What one visit has to work with.

    Attributes:
      url: The server's.
      key: A key that opens it.
      chance: Decides.
      http: Its connections.
    """

    url: str
    key: str
    chance: Random
    http: httpx.AsyncClient

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}

    def prompt(self) -> str:
        return f"piece {self.chance.random()}"

    def piece(self, formats: tuple[str, ...]) -> dict[str, Any]:
        """Fields of a generation or a stream."""
        return {
            "duration": self.chance.choice([0.04, 0.5, 1, 2, 4, 8]),
            "seed": self.chance.randrange(2**32),
            "format": self.chance.choice(formats),
        }

    async def post(self, route: str, **given: Any) -> str:
        answer = await self.http.post(self.url + route, **{"headers": self.headers, **given})
        return told(answer)

    def connect(self, path: str, **options: Any) -> Any:
        """A WebSocket."""
        url = self.url.replace("http", "ws", 1) + path
        return websockets.connect(url, **{"additional_headers": self.headers, **options})


def told(answer: httpx.Response) -> str:
    """The status of an answer; of an error its type too."""
    if answer.status_code >= 400:
        return f"{answer.status_code} {answer.json()['type']}"
    return str(answer.status_code)


def tone(chance: Random) -> bytes:
    """An honest upload: a second or two in one of the formats."""
    t = np.arange(chance.choice([24_000, 96_000])) / SAMPLE_RATE_HZ
    wave = 0.5 * np.sin(2 * np.pi * chance.uniform(100, 1000) * t)
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE_HZ, format=chance.choice(FILES).upper())
    return file.getvalue()


# Over HTTP.


async def generate(visit: Visit) -> str:
    fields = {"prompt": visit.prompt(), **visit.piece(FILES)}
    return await visit.post("/generate/text", **{visit.chance.choice(["json", "data"]): fields})


async def generate_from_audio(visit: Visit) -> str:
    fields = visit.piece(FILES)
    if visit.chance.random() < 0.5:
        files: Any = {"audio_file": ("a", tone(visit.chance))}
        return await visit.post("/generate/audio", data=fields, files=files)
    files = [("audio_files", ("a", tone(visit.chance))) for _ in range(2)]
    fields |= {"text_prompts": "one,two", "audio_weights": "1,-0.5"}
    return await visit.post("/generate/blend", data=fields, files=files)


async def leave_generation(visit: Visit) -> str:
    body = {"prompt": visit.prompt(), **visit.piece(FILES), "duration": 60}
    try:
        async with asyncio.timeout(visit.chance.choice([0.005, 0.02, 0.1, 0.5])):
            return await visit.post("/generate/text", json=body)
    except TimeoutError:
        return LEFT


async def stream(visit: Visit) -> str:
    fields = {"prompt": visit.prompt(), **visit.piece(STREAMS)}
    fields["pace"] = visit.chance.choice(["asap", "realtime"])
    outcome, received = await _read(visit, fields)
    due = frames_for(fields["duration"]) * FRAME_BYTES
    if outcome == "200" and fields["format"] == "pcm" and received != due:
        return f"200 with {received} bytes of {due}"
    return outcome


async def leave_stream(visit: Visit) -> str:
    fields = {"prompt": visit.prompt(), **visit.piece(STREAMS)}
    fields["duration"] = visit.chance.choice([0, 8, 60])
    try:
        async with asyncio.timeout(visit.chance.uniform(0, 3)):
            outcome, _ = await _read(visit, fields)
            return outcome
    except TimeoutError:
        return LEFT


async def _read(visit: Visit, fields: dict[str, Any]) -> tuple[str, int]:
    """What comes of a stream, and how many bytes."""
    posted = visit.chance.random() < 0.5
    opened = visit.http.stream(
        "POST" if posted else "GET",
        f"{visit.url}/stream/text",
        headers=visit.headers,
        **{"data" if posted else "params": fields},
    )
    async with opened as answer:
        if answer.status_code != 200:
            await answer.aread()
            return told(answer), 0
        return "200", sum([len(chunk) async for chunk in answer.aiter_raw()])


async def upload(visit: Visit) -> str:
    route = visit.chance.choice(["/prompts/audio", "/embed/audio"])
    return await visit.post(route, files={"audio_file": ("a", tone(visit.chance))})


async def embed_text(visit: Visit) -> str:
    return await visit.post("/embed/text", json={"prompt": visit.prompt()})


async def look(visit: Visit) -> str:
    path = visit.chance.choice(["/", "/docs", "/docs.json", "/metrics", "/livez", "/requests/x"])
    return told(await visit.http.get(visit.url + path, headers=visit.headers))


# Over a WebSocket.


async def jam(visit: Visit) -> str:
    async def say(**message: Any) -> None:
        await connection.send(json.dumps(message))

    chance = visit.chance
    async with visit.connect("/ws/jam", max_size=None) as connection:
        start = {"prompts": [{"text": visit.prompt()}], "format": chance.choice(["pcm", "ogg"])}
        await say(type="start", **start)
        for _ in range(chance.randrange(1, 12)):
            match chance.randrange(5):
                case 0:
                    ramp = chance.choice([0, 1, 5])
                    await say(type="update", prompts=[{"text": visit.prompt()}], ramp=ramp)
                case 1:
                    await say(type="pause")
                    await say(type="resume")
                case 2:
                    await say(type="reset")
                case 3:
                    await say(type="stop")
                    await say(type="start", **start)
                case 4:
                    await say(type="ping")
            if refusal := await hear(connection, chance.uniform(0, 1)):
                return refusal
        if chance.random() < 0.3:
            connection.transport.abort()
        elif chance.random() < 0.5:
            await say(type="stop")
    return PLAYED


async def lyria(visit: Visit) -> str:
    def content() -> dict[str, Any]:
        return {"clientContent": {"weightedPrompts": [{"text": visit.prompt(), "weight": 1}]}}

    chance = visit.chance
    async with visit.connect(LYRIA, max_size=None) as connection:
        config = {"musicGenerationConfig": {"temperature": 1.0, "seed": chance.randrange(2**32)}}
        for message in ({"setup": {"model": "any"}}, content(), config):
            await connection.send(json.dumps(message))
        for _ in range(chance.randrange(1, 8)):
            control = chance.choice(["PLAY", "PLAY", "PAUSE", "STOP", "RESET_CONTEXT"])
            await connection.send(json.dumps({"playbackControl": control}))
            await connection.send(json.dumps(content()))
            if refusal := await hear(connection, chance.uniform(0, 1)):
                return refusal
        if chance.random() < 0.3:
            connection.transport.abort()
    return PLAYED


async def hear(connection: websockets.ClientConnection, seconds: float) -> str:
    """Takes what comes for so long; returns the server's refusal, or nothing."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for message in connection:
                said = json.loads(message) if isinstance(message, str) else {}
                if said.get("type") == "error":
                    return f"error {said['error_type']}"
        return f"closed {connection.close_code}"
    return ""
