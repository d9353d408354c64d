"""Clients of a soak who make mistakes, and those who mean harm.

Their visits are like those of ``bench.visitors``.

Invariant: as there; what is not a request that a library would send is written byte by byte.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from random import Random
from urllib.parse import urlsplit

import httpx
import websockets

from bench.visitors import LEFT, LYRIA, PATIENCE_S, Visit, hear, tone
from magenta_bento.live.connection import STALL_S as LIVE_STALL_S
from magenta_bento.web.streaming import STALL_S as STREAM_STALL_S

RESET, CUT_OFF = "reset", "cut off"
SMALL_BYTES = 8_192  # of a socket's buffer: one who reads nothing is soon felt
FILLING_S = 40.0  # for a busy server to make what fills the buffers on its own side
FORM = "Content-Type: application/x-www-form-urlencoded"


async def upload_damaged(visit: Visit) -> str:
    route = visit.chance.choice(["/prompts/audio", "/embed/audio", "/generate/audio"])
    return await visit.post(route, files={"audio_file": ("a", _damaged(visit.chance))})


def _damaged(chance: Random) -> bytes:
    """An upload that has lost its end, was written over, or never was audio."""
    data = bytearray(tone(chance))
    match chance.randrange(3):
        case 0:
            return bytes(data[: chance.randrange(len(data))])
        case 1:
            for _ in range(200):
                data[chance.randrange(len(data))] = chance.randrange(256)
            return bytes(data)
    return bytes(data[:4]) + chance.randbytes(20_000)


async def ask_wrongly(visit: Visit) -> str:
    body = {"prompt": visit.prompt()}
    unknown_media = {**visit.headers, "Content-Type": "text/html"}
    route, given = visit.chance.choice(
        [
            ("/generate/text", {"json": {}}),
            ("/generate/text", {"json": {**body, "duration": -1, "top_k": 0, "nothing": 1}}),
            ("/generate/text", {"json": {**body, "duration": 1e9}}),
            ("/generate/text", {"json": {"prompt": "x" * 1_001}}),
            ("/generate/text", {"json": [1]}),
            ("/generate/text", {"content": b"{" * 5_000}),
            ("/generate/text", {"content": b"x", "headers": unknown_media}),
            ("/generate/text", {"data": {"prompt": "a" * 300_000}}),
            ("/generate/audio", {"data": {"audio_file": "http://localhost/"}}),
            ("/generate/audio", {"files": {"audio_file": ("empty", b"")}}),
            ("/generate/blend", {"data": {"text_prompts": "a,b", "text_weights": "1"}}),
            ("/stream/text", {"data": {**body, "format": "flac"}}),
            ("/stream/text", {"files": {f"f{i}": b"1" for i in range(200)}}),
            ("/nothing", {}),
            ("/health", {}),
        ]
    )
    try:
        return await visit.post(route, **given)
    except httpx.ReadError:  # as in _raw
        return RESET


async def talk_nonsense(visit: Visit) -> str:
    raw = visit.chance.choice(
        [
            "",
            "[" * 100_000,
            '{"type": "update"}',
            '{"type": "start", "prompts": []}',
            '{"type": "start", "prompts": [{"audio": "AAAA"}]}',
            b"\xff\xfe",
            visit.chance.randbytes(1_000),
            "x" * (17 << 20),
        ]
    )
    async with visit.connect("/ws/jam", compression=None) as connection:
        with suppress(websockets.ConnectionClosed):
            await connection.send(raw)
        return await hear(connection, PATIENCE_S) or "stuck"


async def send_too_much(visit: Visit) -> str:
    if visit.chance.random() < 0.5:
        return await _raw(visit, _head(visit, "Content-Length: 99999999"))
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
    return await _raw(visit, _head(visit, "Transfer-Encoding: chunked"), *[chunk] * 40)


async def send_slowly(visit: Visit) -> str:
    drops = [b"a"] * visit.chance.randrange(1, 20)
    return await _raw(visit, _head(visit, "Content-Length: 1000"), *drops, pause_s=0.1)


async def come_without_key(visit: Visit) -> str:
    headers = visit.chance.choice([{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
    if visit.chance.random() < 0.7:
        return await visit.post("/generate/text", json={"prompt": "funk"}, headers=headers)
    path = visit.chance.choice(["/ws/jam", LYRIA])
    async with visit.connect(path, additional_headers=headers):
        return "let in"


async def break_off(visit: Visit) -> str:
    """Sends a part of a request or all of it, hears a part of the answer at most, and resets."""
    form = b"prompt=funk&duration=0&format=wav"
    whole = _head(visit, f"Content-Length: {len(form)}", "/stream/text") + form
    async with _opened(visit) as (reader, writer):
        if visit.chance.random() < 0.5:
            writer.write(whole[: visit.chance.randrange(len(whole))])
        else:
            writer.write(whole)
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(visit.chance.uniform(0, 1)):
                    await reader.readexactly(visit.chance.randrange(1, 1_000_000))
    return LEFT


async def read_nothing(visit: Visit) -> str:
    """Asks for much, and takes none of it until the server must have given up."""
    async with _opened(visit, SMALL_BYTES) as (reader, writer):
        writer.write(_endless(visit.key))
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:15]:
                return _status(head + await reader.readuntil(b'"detail"'))
        await asyncio.sleep(FILLING_S + STREAM_STALL_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await reader.read(1 << 20):
                    pass
        except TimeoutError:
            return "still served"
        except ConnectionResetError:
            pass
        return CUT_OFF


def _endless(key: str) -> bytes:
    query = "prompt=unread&duration=0&format=wav&pace=asap"
    return f"GET /stream/text?{query} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()


@contextmanager
def unread(url: str, key: str) -> Iterator[None]:
    """Two who ask for much, never read it and never leave."""
    form = b"prompt=unread&duration=60&format=wav"
    lines = ["POST /generate/text HTTP/1.1", "Host: x", f"X-API-Key: {key}", FORM]
    lines += [f"Content-Length: {len(form)}", "", ""]
    requests = (_endless(key), "\r\n".join(lines).encode() + form)
    with ExitStack() as connections:
        for request in requests:
            connections.enter_context(_plain(url, SMALL_BYTES)).sendall(request)
        yield


async def listen_to_nothing(visit: Visit) -> str:
    """The same with a live session, which may be too short for the server to notice."""
    async with visit.connect("/ws/jam", max_queue=1) as connection:
        start = {"type": "start", "prompts": [{"text": "funk"}], "lead_ms": 10_000}
        await connection.send(json.dumps(start))
        await asyncio.sleep(LIVE_STALL_S + visit.chance.uniform(0, 20))
        connection.transport.abort()
    return LEFT


def _head(visit: Visit, length: str, route: str = "/generate/text") -> bytes:
    lines = [f"POST {route} HTTP/1.1", "Host: x", f"X-API-Key: {visit.key}", FORM, length, "", ""]
    return "\r\n".join(lines).encode()


async def _raw(visit: Visit, *parts: bytes, pause_s: float = 0) -> str:
    """Sends a request by hand; returns the answer's status and type."""
    try:
        async with _opened(visit) as (reader, writer), asyncio.timeout(PATIENCE_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return _status(await reader.readuntil(b'"detail"'))
    except ConnectionError:  # the answer came while we still sent, and the rest was refused
        return RESET


def _status(data: bytes) -> str:
    kind = re.search(rb'"type": ?"(\w+)"', data)
    return f"{data[9:12].decode()} {kind[1].decode() if kind else ''}"


@asynccontextmanager
async def _opened(
    visit: Visit, buffer_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection that ends with a reset, not with a farewell."""
    plain = _plain(visit.url, buffer_bytes)  # at once: the server's backlog takes it
    reader, writer = await asyncio.open_connection(sock=plain, limit=buffer_bytes or 1 << 16)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def _plain(url: str, buffer_bytes: int | None) -> socket.socket:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if buffer_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    parts = urlsplit(url)
    plain.connect((parts.hostname, parts.port))
    return plain
