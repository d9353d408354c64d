"""A live stream on a server that is busy with as much offline work as it takes."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import websockets
from serving import Server

OFFLINE = 24  # three times the slots: the others wait in the queue
SECONDS = 6


async def generate(client: httpx.AsyncClient, server: Server, seconds: float) -> None:
    body = {"prompt": "work in the background", "duration": seconds, "format": "wav"}
    answer = await client.post(f"{server.url}/generate/text", json=body)
    assert answer.status_code == 200


@pytest.mark.timeout(240)
async def test_a_live_stream_does_not_run_dry_beside_a_full_offline_queue(server: Server) -> None:
    address = server.url.replace("http", "ws") + "/ws/jam"
    start = {"type": "start", "prompts": [{"text": "funk"}], "chunk_ms": 200, "lead_ms": 2000}
    async with httpx.AsyncClient(timeout=200) as client, asyncio.TaskGroup() as offline:
        async with websockets.connect(address, max_size=None) as live:
            await live.send(json.dumps(start))
            await live.recv()
            for _ in range(OFFLINE):
                offline.create_task(generate(client, server, 30))
            heard_s, stats = 0.0, {}
            while heard_s < SECONDS:
                message = await live.recv()
                if isinstance(message, bytes):
                    heard_s += len(message) / 192_000
                elif (told := json.loads(message))["type"] == "stats":
                    stats = told
            health = (await client.get(f"{server.url}/health")).json()["streams"]
        assert stats["underruns"] == 0
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
