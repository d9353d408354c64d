"""Scenarios of a soak: clients that make mistakes, and clients that attack.

They are called like those of ``bench.traffic``, and what holds for those holds for them. What an
HTTP library would not send is written to the socket byte by byte.
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

from bench.traffic import LEFT, LYRIA, TIMEOUT_S, Client, hear, tone
from magenta_bento.live.connection import STALL_S as LIVE_STALL_S
from magenta_bento.web.streaming import STALL_S as STREAM_STALL_S

RESET, CUT_OFF = "reset", "cut off"
SMALL_BUFFER_BYTES = 8_192  # so that the server soon notices a client that reads nothing
FILLING_S = 40.0  # a busy server needs about so long to fill the buffers on its own side
FORM = "Content-Type: application/x-www-form-urlencoded"


async def upload_damaged(client: Client) -> str:
    route = client.rng.choice(["/prompts/audio", "/embed/audio", "/generate/audio"])
    return await client.post(route, files={"audio_file": ("a", _damaged(client.rng))})


def _damaged(rng: Random) -> bytes:
    """A file that is cut short, or has wrong bytes in it, or is no audio but for its beginning."""
    data = bytearray(tone(rng))
    match rng.randrange(3):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            for _ in range(200):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
    return bytes(data[:4]) + rng.randbytes(20_000)


async def send_invalid_request(client: Client) -> str:
    body = {"prompt": client.prompt()}
    unknown_media = {**client.headers, "Content-Type": "text/html"}
    route, options = client.rng.choice(
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
        return await client.post(route, **options)
    except httpx.ReadError:  # refused before all was sent, as in _send_raw
        return RESET


async def send_invalid_message(client: Client) -> str:
    raw = client.rng.choice(
        [
            "",
            "[" * 100_000,
            '{"type": "update"}',
            '{"type": "start", "prompts": []}',
            '{"type": "start", "prompts": [{"audio": "AAAA"}]}',
            b"\xff\xfe",
            client.rng.randbytes(1_000),
            "x" * (17 << 20),
        ]
    )
    async with client.connect("/ws/jam", compression=None) as connection:
        with suppress(websockets.ConnectionClosed):
            await connection.send(raw)
        return await hear(connection, TIMEOUT_S) or "stuck"


async def send_too_much(client: Client) -> str:
    if client.rng.random() < 0.5:
        return await _send_raw(client, _head(client, "Content-Length: 99999999"))
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
    return await _send_raw(client, _head(client, "Transfer-Encoding: chunked"), *[chunk] * 40)


async def send_slowly(client: Client) -> str:
    drops = [b"a"] * client.rng.randrange(1, 20)
    return await _send_raw(client, _head(client, "Content-Length: 1000"), *drops, pause_s=0.1)


async def send_without_key(client: Client) -> str:
    headers = client.rng.choice([{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
    if client.rng.random() < 0.7:
        return await client.post("/generate/text", json={"prompt": "funk"}, headers=headers)
    path = client.rng.choice(["/ws/jam", LYRIA])
    async with client.connect(path, additional_headers=headers):
        return "let in"


async def reset_connection(client: Client) -> str:
    """Resets the connection amid the request, or amid the answer."""
    form = b"prompt=funk&duration=0&format=wav"
    whole = _head(client, f"Content-Length: {len(form)}", "/stream/text") + form
    async with _opened(client) as (reader, writer):
        if client.rng.random() < 0.5:
            writer.write(whole[: client.rng.randrange(len(whole))])
        else:
            writer.write(whole)
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(client.rng.uniform(0, 1)):
                    await reader.readexactly(client.rng.randrange(1, 1_000_000))
    return LEFT


async def ignore_response(client: Client) -> str:
    """Asks for an endless stream, and reads none of it until the server must have given up."""
    async with _opened(client, SMALL_BUFFER_BYTES) as (reader, writer):
        writer.write(_endless(client.key))
        async with asyncio.timeout(TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:15]:
                return _status(head + await reader.readuntil(b'"detail"'))
        await asyncio.sleep(FILLING_S + STREAM_STALL_S)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while await reader.read(1 << 20):
                    pass
        except TimeoutError:
            return "still served"
        except ConnectionResetError:
            pass
        return CUT_OFF


def _endless(key: str) -> bytes:
    query = "prompt=unread_responses&duration=0&format=wav&pace=asap"
    return f"GET /stream/text?{query} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()


@contextmanager
def unread_responses(url: str, key: str) -> Iterator[None]:
    """Keeps two connections open whose answers are never read: a stream, and a long file."""
    form = b"prompt=unread_responses&duration=60&format=wav"
    lines = ["POST /generate/text HTTP/1.1", "Host: x", f"X-API-Key: {key}", FORM]
    lines += [f"Content-Length: {len(form)}", "", ""]
    requests = (_endless(key), "\r\n".join(lines).encode() + form)
    with ExitStack() as connections:
        for request in requests:
            connections.enter_context(_reset_socket(url, SMALL_BUFFER_BYTES)).sendall(request)
        yield


async def ignore_live_audio(client: Client) -> str:
    """Reads nothing of a live session, for about as long as the server tolerates it."""
    async with client.connect("/ws/jam", max_queue=1) as connection:
        start = {"type": "start", "prompts": [{"text": "funk"}], "lead_ms": 10_000}
        await connection.send(json.dumps(start))
        await asyncio.sleep(LIVE_STALL_S + client.rng.uniform(0, 20))
        connection.transport.abort()
    return LEFT


def _head(client: Client, length: str, route: str = "/generate/text") -> bytes:
    lines = [f"POST {route} HTTP/1.1", "Host: x", f"X-API-Key: {client.key}", FORM, length, "", ""]
    return "\r\n".join(lines).encode()


async def _send_raw(client: Client, *parts: bytes, pause_s: float = 0) -> str:
    """Sends the bytes of a request as they are; returns the answer's status and type."""
    try:
        async with _opened(client) as (reader, writer), asyncio.timeout(TIMEOUT_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return _status(await reader.readuntil(b'"detail"'))
    except ConnectionError:  # the server refused before all was sent, and closed
        return RESET


def _status(data: bytes) -> str:
    kind = re.search(rb'"type": ?"(\w+)"', data)
    return f"{data[9:12].decode()} {kind[1].decode() if kind else ''}"


@asynccontextmanager
async def _opened(
    client: Client, buffer_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection that ends with a reset instead of an orderly close."""
    raw_socket = _reset_socket(client.url, buffer_bytes)
    reader, writer = await asyncio.open_connection(sock=raw_socket, limit=buffer_bytes or 1 << 16)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def _reset_socket(url: str, buffer_bytes: int | None) -> socket.socket:
    """A socket that is connected to the server, and resets the connection when it is closed."""
    raw_socket = socket.socket()
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if buffer_bytes is not None:
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    parts = urlsplit(url)
    raw_socket.connect((parts.hostname, parts.port))
    return raw_socket
