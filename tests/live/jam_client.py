"""A client of /ws/jam for tests: it asks, hears samples, and keeps what else it is told.

Invariant: every message of the server is kept in ``told``, every sample in ``heard``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import websockets
from numpy.typing import NDArray

Message = dict[str, Any]
Pcm = NDArray[np.int16]

FRAME = 1_920  # samples
FRAME_BYTES = FRAME * 4
LIMIT_S = 60.0
START: Message = {
    "type": "start",
    "prompts": [{"text": "disco funk"}],
    "seed": 1,
    "chunk_ms": 200,
    "lead_ms": 10_000,
}


class JamClient:
    """See the module."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.told: list[Message] = []
        self.chunks: list[bytes] = []

    @property
    def heard(self) -> Pcm:
        """int16 [N, 2], all that was sent."""
        return np.frombuffer(b"".join(self.chunks), "<i2").reshape(-1, 2)

    @property
    def frames(self) -> int:
        return sum(map(len, self.chunks)) // FRAME_BYTES

    async def start(self, **changed: Any) -> Message:
        """Starts to play, and forgets what was heard before."""
        started = await self.ask(**{**START, **changed})
        assert started["type"] == "started", started
        self.chunks.clear()
        return started

    async def ask(self, **message: Any) -> Message:
        """Sends a message; returns its answer."""
        return await self.say(json.dumps(message))

    async def say(self, raw: str | bytes) -> Message:
        await self.socket.send(raw)
        return await self.answer()

    async def answer(self) -> Message:
        """The next message that is not stats."""
        while (told := await self.next())["type"] in ("audio", "stats"):
            pass
        return told

    async def stats(self) -> Message:
        while (told := await self.next())["type"] != "stats":
            pass
        return told

    async def hear(self, frames: int) -> Pcm:
        """Waits until so many frames were heard in all; returns exactly those."""
        while self.frames < frames:
            told = await self.next()
            assert told["type"] in ("audio", "stats"), told
        return self.heard[: frames * FRAME]

    async def hear_first(self) -> None:
        """Waits for the first audio, whatever else is said."""
        while not self.chunks:
            await self.next()

    async def hear_nothing(self, seconds: float) -> None:
        """For so long no audio comes."""
        try:
            async with asyncio.timeout(seconds):
                while (told := await self.next())["type"] == "stats":
                    pass
        except TimeoutError:
            return
        raise AssertionError(f"it said {told}")

    async def next(self) -> Message:
        """The next message; one of audio reads {"type": "audio"}."""
        async with asyncio.timeout(LIMIT_S):
            raw = await self.socket.recv()
        if isinstance(raw, bytes):
            self.chunks.append(raw)
            return {"type": "audio"}
        told: Message = json.loads(raw)
        self.told.append(told)
        return told

    async def closed(self) -> tuple[int, str]:
        """Waits for the server to close; returns its code and reason."""
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.next()
        return self.socket.close_code or 0, self.socket.close_reason or ""


@asynccontextmanager
async def jam_at(url: str) -> AsyncIterator[JamClient]:
    """A connection to a server's /ws/jam."""
    address = url.replace("http", "ws", 1) + "/ws/jam"
    async with websockets.connect(address, max_size=None) as socket:
        yield JamClient(socket)


def same(a: Pcm, b: Pcm) -> bool:
    """Whether two sounds are one; batches of other sizes may round a sample the other way."""
    return a.shape == b.shape and bool(np.abs(a.astype(int) - b.astype(int)).max(initial=0) <= 1)


def first_difference(a: Pcm, b: Pcm) -> int:
    """The first frame in which two sounds of one length differ."""
    differs = np.abs(a.astype(int) - b.astype(int)).max(axis=1) > 1
    assert differs.any(), "they don't differ"
    return int(np.argmax(differs)) // FRAME
