"""Lyria RealTime's protocol: by hand, byte by byte, and by Google's own SDKs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import websockets
from conftest import until_idle
from jam_client import FRAME, LIMIT_S, Pcm, same
from programs import program
from serving import Server
from tls_serving import serving_tls

PATH = "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateMusic"
MIME_TYPE = "audio/l16;rate=48000;channels=2"
SETUP = {"setup": {"model": "models/lyria-realtime-exp"}}
PROMPTS = [{"text": "disco funk", "weight": 1.0}]
CONTENT = {"clientContent": {"weightedPrompts": PROMPTS}}
CONFIG = {"musicGenerationConfig": {"seed": 1}}
PLAY, PAUSE, STOP, RESET = (
    {"playbackControl": word} for word in ("PLAY", "PAUSE", "STOP", "RESET_CONTEXT")
)
MAX_FRAME_BYTES = 2**20
LYRIAS = {"temperature": 1.1, "top_k": 40, "guidance": 4.0}
JS = Path(__file__).parents[1] / "js"


class Client:
    """A client as the cookbook's: each frame is bytes, which it decodes."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.heard = np.zeros((0, 2), np.int16)
        self.sources: list[dict[str, Any]] = []

    async def send(self, *messages: dict[str, Any], binary: bool = False) -> None:
        for message in messages:
            text = json.dumps(message)
            await self.socket.send(text.encode() if binary else text)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            frame = await self.socket.recv()
        assert isinstance(frame, bytes)
        assert len(frame) <= MAX_FRAME_BYTES
        message: dict[str, Any] = json.loads(frame.decode())
        for chunk in message.get("serverContent", {}).get("audioChunks", []):
            assert chunk["mimeType"] == MIME_TYPE
            pcm = np.frombuffer(base64.b64decode(chunk["data"]), "<i2").reshape(-1, 2)
            self.heard = np.concatenate([self.heard, pcm])
            self.sources.append(chunk["sourceMetadata"])
        return message

    async def hear(self, frames: int) -> Pcm:
        """The first frames, once so many were sent."""
        while len(self.heard) < frames * FRAME:
            await self.next()
        return self.heard[: frames * FRAME]

    async def hear_nothing(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                told = await self.next()
        except TimeoutError:
            return
        raise AssertionError(f"it said {list(told)}")

    async def settle(self) -> None:
        """Hears what was on its way when playback was paused or stopped."""
        while True:
            try:
                async with asyncio.timeout(0.5):
                    await self.next()
            except TimeoutError:
                return

    async def closed(self) -> tuple[int | None, str | None]:
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.next()
        return self.socket.close_code, self.socket.close_reason


@asynccontextmanager
async def connected(server: Server, path: str = PATH) -> AsyncIterator[Client]:
    """A connection with the default bound on a frame, which is Google's SDK's too."""
    async with websockets.connect(server.url.replace("http", "ws", 1) + path) as socket:
        yield Client(socket)


def fresh(server: Server, frames: int, **fields: Any) -> Pcm:
    """The same music by /stream/text."""
    body = {"prompt": "disco funk", "seed": 1, "duration": frames / 25, "format": "pcm", **LYRIAS}
    reply = requests.post(f"{server.url}/stream/text", json=body | fields, timeout=60)
    assert reply.status_code == 200, reply.text
    return np.frombuffer(reply.content, "<i2").reshape(-1, 2)


@pytest.fixture(scope="module")
def plain(server: Server) -> Pcm:
    return fresh(server, 60)


# A raw client


@pytest.mark.parametrize("version", ["v1", "v1alpha", "v1beta"])
@pytest.mark.parametrize("slashes", ["/", "//"])
@pytest.mark.parametrize("binary", [False, True])
async def test_every_path_and_kind_of_frame(
    server: Server, plain: Pcm, version: str, slashes: str, binary: bool
) -> None:
    path = slashes + PATH[1:].replace("v1alpha", version)
    async with connected(server, path) as client:
        await client.send(SETUP, CONFIG, CONTENT, PLAY, binary=binary)  # pipelined
        assert await client.next() == {"setupComplete": {}}
        assert same(await client.hear(20), plain[: 20 * FRAME])


async def test_another_method_is_refused(server: Server) -> None:
    with pytest.raises(websockets.InvalidStatus):
        async with connected(server, PATH.replace("Music", "Content")):
            pass


@pytest.mark.parametrize(
    "config",
    [
        {"topK": 3, "temperature": 0.7, "guidance": 2, "seed": 1},
        {"top_k": 3, "temperature": 0.7, "guidance": 2, "seed": 1},
        {"topK": "3", "temperature": "0.7", "guidance": "2.0", "seed": "1"},
        {"topK": 3.0, "temperature": 0.7, "guidance": 2, "seed": 1, "muteDrums": None},
    ],
)
async def test_the_ways_in_which_clients_write(server: Server, config: dict[str, Any]) -> None:
    snake = "top_k" in config
    content = {"weighted_prompts" if snake else "weightedPrompts": [{"text": "disco funk"}]}
    async with connected(server) as client:
        await client.send(
            {**SETUP, "clientContent": None},
            {"music_generation_config" if snake else "musicGenerationConfig": config},
            {"client_content" if snake else "clientContent": content, "setup": None},
            {"playback_control": "PLAY"} if snake else PLAY,
        )
        heard = await client.hear(20)
    assert same(heard, fresh(server, 20, top_k=3, temperature=0.7, guidance=2))


async def test_a_null_weight_is_one_and_a_weight_of_0_is_none(server: Server, plain: Pcm) -> None:
    prompts = [{"text": "disco funk", "weight": None}, {"text": "slow piano", "weight": 0}]
    async with connected(server) as client:
        await client.send(SETUP, CONFIG, {"clientContent": {"weightedPrompts": prompts}}, PLAY)
        assert same(await client.hear(20), plain[: 20 * FRAME])
    assert client.sources[0]["clientContent"]["weightedPrompts"] == PROMPTS


async def test_play_may_come_before_the_first_prompt(server: Server, plain: Pcm) -> None:
    async with connected(server) as client:
        await client.send(SETUP, PLAY, CONFIG)
        assert await client.next() == {"setupComplete": {}}
        await client.hear_nothing(0.3)
        await client.send(CONTENT)
        assert same(await client.hear(20), plain[: 20 * FRAME])


async def test_a_pause_before_the_first_prompt_holds(server: Server) -> None:
    async with connected(server) as client:
        await client.send(SETUP, PLAY, PAUSE, CONTENT)
        assert await client.next() == {"setupComplete": {}}
        await client.hear_nothing(0.3)
        await client.send(PLAY)
        await client.hear(10)


async def test_pause_loses_and_repeats_nothing(server: Server, plain: Pcm) -> None:
    async with connected(server) as client:
        await client.send(SETUP, CONFIG, CONTENT, PLAY)
        await client.hear(10)
        await client.send(PAUSE, PAUSE)
        await client.settle()
        await client.hear_nothing(0.3)
        await client.send(PLAY)
        assert same(await client.hear(60), plain)


async def test_stop_keeps_prompts_and_config_and_forgets_the_context(
    server: Server, plain: Pcm
) -> None:
    async with connected(server) as client:
        await client.send(SETUP, CONFIG, CONTENT, PLAY)
        await client.hear(10)
        await client.send(STOP)
        await client.settle()
        await asyncio.to_thread(until_idle, server)
        before = len(client.heard)
        await client.send(PLAY)
        await client.hear(before // FRAME + 20)
    assert same(client.heard[before : before + 20 * FRAME], plain[: 20 * FRAME])


async def test_reset_context_begins_anew_while_playing(server: Server, plain: Pcm) -> None:
    async with connected(server) as client:
        await client.send(SETUP, CONFIG, CONTENT, PLAY)
        await client.hear(10)
        await client.send(RESET)
        heard = await client.hear(110)
    begins = [
        i for i in range(10, 90) if same(heard[i * FRAME : (i + 20) * FRAME], plain[: 20 * FRAME])
    ]
    assert len(begins) == 1
    (begin,) = begins
    assert same(heard[: begin * FRAME], fresh(server, 110)[: begin * FRAME])


async def test_a_config_replaces_the_whole_one(server: Server) -> None:
    async with connected(server) as client:
        await client.send(SETUP, CONTENT)
        await client.send({"musicGenerationConfig": {"topK": 1, "temperature": 0.2, "seed": 9}})
        await client.send({"musicGenerationConfig": {"seed": 1, "guidance": 1}}, PLAY)
        heard = await client.hear(20)
    assert same(heard, fresh(server, 20, guidance=1))


async def test_mute_drums_is_heard(server: Server, plain: Pcm) -> None:
    async with connected(server) as client:
        config = {"seed": 1, "muteDrums": True}
        await client.send(SETUP, CONTENT, {"musicGenerationConfig": config}, PLAY)
        assert not same(await client.hear(60), plain)


async def test_the_source_tells_only_what_has_an_effect(server: Server) -> None:
    told = {"temperature": 1.0, "topK": 30, "guidance": 3.5, "seed": 5, "muteDrums": True}
    rest = {
        "bpm": 90,
        "density": 0.5,
        "brightness": 0.5,
        "scale": "C_MAJOR_A_MINOR",
        "muteBass": True,
        "onlyBassAndDrums": False,
        "musicGenerationMode": "QUALITY",
    }
    async with connected(server) as client:
        await client.send(SETUP, CONTENT, {"musicGenerationConfig": told | rest}, PLAY)
        await client.hear(10)
    assert client.sources[0] == {
        "clientContent": {"weightedPrompts": PROMPTS},
        "musicGenerationConfig": told,
    }


async def test_the_source_changes_with_the_sound(server: Server, plain: Pcm) -> None:
    other = [{"text": "slow piano", "weight": 2.0}]
    async with connected(server) as client:
        await client.send(SETUP, CONFIG, CONTENT, PLAY)
        await client.hear(10)
        await client.send({"clientContent": {"weightedPrompts": other}})
        while client.sources[-1]["clientContent"]["weightedPrompts"] == PROMPTS:
            await client.next()
    chunk = len(client.heard) // len(client.sources)
    unchanged = min(len(client.heard) - chunk, len(plain))
    assert same(client.heard[:unchanged], plain[:unchanged])


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("nonsense", "JSON"),
        (PLAY, "setup"),
        ({**SETUP, "playbackControl": "DANCE"}, "playback"),
        ({**SETUP, "clientContent": {"weightedPrompts": []}}, "weightedPrompts"),
        ({**SETUP, "clientContent": {"weightedPrompts": [{"text": ""}]}}, "text"),
        (
            {**SETUP, "clientContent": {"weightedPrompts": [{"text": "a", "weight": -1}]}},
            "positive",
        ),
        ({**SETUP, "musicGenerationConfig": {"topK": 0}}, "top"),
        ({**SETUP, "musicGenerationConfig": {"temperature": 3.1}}, "temperature"),
        ({**SETUP, "musicGenerationConfig": {"guidance": 7}}, "guidance"),
    ],
)
async def test_a_wrong_message_closes_with_a_reason(
    server: Server, message: Any, told: str
) -> None:
    async with connected(server) as client:
        await client.socket.send(message if isinstance(message, str) else json.dumps(message))
        code, reason = await client.closed()
    assert code == 1008
    assert told.lower() in (reason or "").lower()


async def test_abrupt_disconnects_leave_no_slot(server: Server, idle: None) -> None:
    async def drop() -> None:
        async with connected(server) as client:
            await client.send(SETUP, CONTENT, PLAY)
            await client.hear(1)
            client.socket.transport.abort()

    for _ in range(5):
        await asyncio.gather(*(drop() for _ in range(4)))
    await asyncio.to_thread(until_idle, server)


async def test_a_key_is_never_logged(server: Server) -> None:
    async with connected(server, f"{PATH}?key=secret-of-a-client") as client:
        await client.send(SETUP)
        await client.next()
    assert not [line for line in server.lines() if "secret-of-a-client" in line]


# Google's SDKs, unmodified


def check(heard: dict[str, Any], **config: Any) -> None:
    assert heard["seconds"] >= 11
    assert heard["loudest"] > 1_000
    content, told = heard["source"].values()
    assert "disco funk" in json.dumps(content)
    assert told == config


@pytest.mark.long
def test_the_python_sdk_makes_music(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as (server, certificate):
        program = Path(__file__).with_name("genai_client.py")
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        done = subprocess.run(
            [sys.executable, str(program), server.url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        heard = json.loads(done.stdout)
        assert not [line for line in server.lines() if "Traceback" in line]
    assert heard["mime_types"] == [MIME_TYPE]
    config = {"temperature": 1.0, "top_k": 30, "guidance": 3.5, "seed": 5, "mute_drums": True}
    check(heard, **config)


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with Google's SDK installed beside our script."""
    found = program("node")
    if not (JS / "node_modules" / "@google" / "genai").is_dir():
        subprocess.run([program("npm"), "install", "--silent"], cwd=JS, check=True, timeout=250)
    return found


@pytest.mark.long
def test_the_javascript_sdk_makes_music(server: Server, node: str) -> None:
    command = [node, str(JS / "lyria.mjs"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert heard["isSetUp"]
    assert heard["mimeTypes"] == [MIME_TYPE]
    check(heard, temperature=1, topK=30, guidance=3.5, seed=5)
    assert not [line for line in server.lines() if "secret-of-javascript" in line]
