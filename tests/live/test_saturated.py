"""A live stream on a server that is busy with as much offline work as it takes."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
import websockets
from serving import Server

pytestmark = pytest.mark.long

OFFLINE = 24  # three times the slots: the others wait in the queue
SECONDS = 6
HELD_S = 1.0  # of live music at most, on its way from the engine to the client


async def generate(
    client: httpx.AsyncClient, server: Server, seconds: float, name: str | None = None
) -> None:
    body = {"prompt": "work in the background", "duration": seconds, "format": "wav"}
    headers = {"X-Request-ID": name} if name else {}
    answer = await client.post(f"{server.url}/generate/text", json=body, headers=headers)
    assert answer.status_code == 200


async def made_s(client: httpx.AsyncClient, server: Server, name: str) -> float:
    answer = await client.get(f"{server.url}/requests/{name}")
    return float(answer.json()["made_seconds"])


@pytest.mark.timeout(240)
async def test_a_live_stream_does_not_run_dry_beside_a_full_offline_queue(server: Server) -> None:
    """Where the machine is too slow even so, nobody offline got more than it."""
    address = server.url.replace("http", "ws") + "/ws/jam"
    start = {"type": "start", "prompts": [{"text": "funk"}], "chunk_ms": 200, "lead_ms": 2000}
    async with httpx.AsyncClient(timeout=200) as client, asyncio.TaskGroup() as offline:
        async with websockets.connect(address, max_size=None) as live:
            await live.send(json.dumps(start))
            await live.recv()
            names = [f"offline-{number}" for number in range(OFFLINE)]
            for name in names:
                offline.create_task(generate(client, server, 30, name))
            heard_s, stats = 0.0, {}
            while heard_s < SECONDS:
                message = await live.recv()
                if isinstance(message, bytes):
                    heard_s += len(message) / 192_000
                elif (told := json.loads(message))["type"] == "stats":
                    stats = told
            asked = time.monotonic()
            others_s = await asyncio.gather(*(made_s(client, server, name) for name in names))
            # All play on while they are asked, and no faster than in real time where one runs dry.
            meanwhile_s = time.monotonic() - asked
            health = (await client.get(f"{server.url}/health")).json()["streams"]
        assert max(others_s) > 0
        assert stats["underruns"] == 0 or heard_s + HELD_S + meanwhile_s >= max(others_s)
        assert health["waiting"] > 0  # it was saturated all the time


async def test_a_live_stream_waits_before_offline_ones(server: Server) -> None:
    address = server.url.replace("http", "ws") + "/ws/jam"
    start = {"type": "start", "prompts": [{"text": "funk"}]}
    async with httpx.AsyncClient(timeout=200) as client, asyncio.TaskGroup() as offline:
        for _ in range(OFFLINE):
            offline.create_task(generate(client, server, 10))
        while (await client.get(f"{server.url}/health")).json()["streams"]["waiting"] == 0:
            pass
        async with websockets.connect(address, max_size=None) as live:
            await live.send(json.dumps(start))
            while not isinstance(await live.recv(), bytes):
                pass
        health = (await client.get(f"{server.url}/health")).json()["streams"]
        assert health["waiting"] > 0  # those who came before it wait still
