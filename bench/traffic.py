"""Scenarios of a soak: clients that want music, and clients that leave before they have it.

A scenario is a coroutine that uses the server once, as one client, and returns the outcome in a
word or two, such as "200" or "401 unauthorized".

Invariant: a scenario's choices come from its client's random generator alone, and it leaves no
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
TIMEOUT_S = 120.0
FRAME_BYTES = 4 * FRAME_SAMPLES  # of pcm
LEFT, PLAYED = "left", "played"
FILE_FORMATS = ("mp3", "wav", "flac", "ogg")
STREAM_FORMATS = ("mp3", "wav", "ogg", "pcm")


@dataclass(frozen=True)
class Client:
    """The client that a scenario plays.

    Attributes:
      url: The server's address.
      key: An API key that the server accepts.
      rng: What all choices are drawn from.
      http: The client's HTTP connections.
    """

    url: str
    key: str
    rng: Random
    http: httpx.AsyncClient

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}

    def prompt(self) -> str:
        return f"piece {self.rng.random()}"

    def piece(self, formats: tuple[str, ...]) -> dict[str, Any]:
        """The fields of a generation or a stream, beside its prompt."""
        return {
            "duration": self.rng.choice([0.04, 0.5, 1, 2, 4, 8]),
            "seed": self.rng.randrange(2**32),
            "format": self.rng.choice(formats),
        }

    async def post(self, route: str, **options: Any) -> str:
        """Sends a request, with httpx's options; returns the outcome."""
        answer = await self.http.post(self.url + route, **{"headers": self.headers, **options})
        return outcome_of(answer)

    def connect(self, path: str, **options: Any) -> Any:
        """A WebSocket connection, with the options of ``websockets.connect``."""
        url = self.url.replace("http", "ws", 1) + path
        return websockets.connect(url, **{"additional_headers": self.headers, **options})


def outcome_of(answer: httpx.Response) -> str:
    """The status of an answer, and the type of its error if it is one."""
    if answer.status_code >= 400:
        return f"{answer.status_code} {answer.json()['type']}"
    return str(answer.status_code)


def tone(rng: Random) -> bytes:
    """A valid upload: half a second or two seconds of a sine, in one of the formats."""
    t = np.arange(rng.choice([24_000, 96_000])) / SAMPLE_RATE_HZ
    wave = 0.5 * np.sin(2 * np.pi * rng.uniform(100, 1000) * t)
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE_HZ, format=rng.choice(FILE_FORMATS).upper())
    return file.getvalue()


# Scenarios over HTTP.


async def generate(client: Client) -> str:
    fields = {"prompt": client.prompt(), **client.piece(FILE_FORMATS)}
    return await client.post("/generate/text", **{client.rng.choice(["json", "data"]): fields})


async def generate_from_audio(client: Client) -> str:
    fields = client.piece(FILE_FORMATS)
    if client.rng.random() < 0.5:
        files: Any = {"audio_file": ("a", tone(client.rng))}
        return await client.post("/generate/audio", data=fields, files=files)
    files = [("audio_files", ("a", tone(client.rng))) for _ in range(2)]
    fields |= {"text_prompts": "one,two", "audio_weights": "1,-0.5"}
    return await client.post("/generate/blend", data=fields, files=files)


async def leave_generation(client: Client) -> str:
    body = {"prompt": client.prompt(), **client.piece(FILE_FORMATS), "duration": 60}
    try:
        async with asyncio.timeout(client.rng.choice([0.005, 0.02, 0.1, 0.5])):
            return await client.post("/generate/text", json=body)
    except TimeoutError:
        return LEFT


async def stream(client: Client) -> str:
    fields = {"prompt": client.prompt(), **client.piece(STREAM_FORMATS)}
    fields["pace"] = client.rng.choice(["asap", "realtime"])
    outcome, received = await _read(client, fields)
    due = frames_for(fields["duration"]) * FRAME_BYTES
    if outcome == "200" and fields["format"] == "pcm" and received != due:
        return f"200 with {received} bytes of {due}"
    return outcome


async def leave_stream(client: Client) -> str:
    fields = {"prompt": client.prompt(), **client.piece(STREAM_FORMATS)}
    fields["duration"] = client.rng.choice([0, 8, 60])
    try:
        async with asyncio.timeout(client.rng.uniform(0, 3)):
            outcome, _ = await _read(client, fields)
            return outcome
    except TimeoutError:
        return LEFT


async def _read(client: Client, fields: dict[str, Any]) -> tuple[str, int]:
    """The outcome of a stream, and how many bytes of it arrived."""
    posted = client.rng.random() < 0.5
    opened = client.http.stream(
        "POST" if posted else "GET",
        f"{client.url}/stream/text",
        headers=client.headers,
        **{"data" if posted else "params": fields},
    )
    async with opened as answer:
        if answer.status_code != 200:
            await answer.aread()
            return outcome_of(answer), 0
        return "200", sum([len(chunk) async for chunk in answer.aiter_raw()])


async def upload(client: Client) -> str:
    route = client.rng.choice(["/prompts/audio", "/embed/audio"])
    return await client.post(route, files={"audio_file": ("a", tone(client.rng))})


async def embed_text(client: Client) -> str:
    return await client.post("/embed/text", json={"prompt": client.prompt()})


async def get_page(client: Client) -> str:
    path = client.rng.choice(["/", "/docs", "/docs.json", "/metrics", "/livez", "/requests/x"])
    return outcome_of(await client.http.get(client.url + path, headers=client.headers))


# Scenarios over a WebSocket.


async def jam(client: Client) -> str:
    async def say(**message: Any) -> None:
        await connection.send(json.dumps(message))

    rng = client.rng
    async with client.connect("/ws/jam", max_size=None) as connection:
        start = {"prompts": [{"text": client.prompt()}], "format": rng.choice(["pcm", "ogg"])}
        await say(type="start", **start)
        for _ in range(rng.randrange(1, 12)):
            match rng.randrange(5):
                case 0:
                    ramp = rng.choice([0, 1, 5])
                    await say(type="update", prompts=[{"text": client.prompt()}], ramp=ramp)
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
            if refusal := await hear(connection, rng.uniform(0, 1)):
                return refusal
        if rng.random() < 0.3:
            connection.transport.abort()
        elif rng.random() < 0.5:
            await say(type="stop")
    return PLAYED


async def lyria(client: Client) -> str:
    def content() -> dict[str, Any]:
        return {"clientContent": {"weightedPrompts": [{"text": client.prompt(), "weight": 1}]}}

    rng = client.rng
    async with client.connect(LYRIA, max_size=None) as connection:
        config = {"musicGenerationConfig": {"temperature": 1.0, "seed": rng.randrange(2**32)}}
        for message in ({"setup": {"model": "any"}}, content(), config):
            await connection.send(json.dumps(message))
        for _ in range(rng.randrange(1, 8)):
            control = rng.choice(["PLAY", "PLAY", "PAUSE", "STOP", "RESET_CONTEXT"])
            await connection.send(json.dumps({"playbackControl": control}))
            await connection.send(json.dumps(content()))
            if refusal := await hear(connection, rng.uniform(0, 1)):
                return refusal
        if rng.random() < 0.3:
            connection.transport.abort()
    return PLAYED


async def hear(connection: websockets.ClientConnection, seconds: float) -> str:
    """Reads messages for some seconds; returns the server's refusal, or "" if there was none."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for message in connection:
                parsed = json.loads(message) if isinstance(message, str) else {}
                if parsed.get("type") == "error":
                    return f"error {parsed['error_type']}"
        return f"closed {connection.close_code}"
    return ""
