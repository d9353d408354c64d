"""Many clients who come, leave early and misbehave: nothing of them stays."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import psutil
from serving import Server, serving

CLIENTS = 16
REQUESTS = 200
REST_S = 60
GROWTH_BYTES = 60_000_000  # of the second half over the first: a leaked piece has up to 4 MB


async def visit(client: httpx.AsyncClient, server: Server, chance: random.Random) -> None:
    body = {
        "prompt": f"piece {chance.random()}",
        "duration": chance.choice([0.04, 0.5, 2, 5, 20]),
        "seed": chance.randrange(2**32),
        "format": chance.choice(["mp3", "wav", "flac", "ogg"]),
    }
    patience_s = chance.choice([None, None, 0.01, 0.05, 0.2])
    try:
        async with asyncio.timeout(patience_s):
            answer = await client.post(f"{server.url}/generate/text", json=body)
            assert answer.status_code in (200, 503), answer.text
    except TimeoutError:
        pass  # the client has left


async def crowd(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    left = iter(range(REQUESTS // 2))

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120) as connection:
            for _ in left:
                await visit(connection, server, chance)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    async with asyncio.timeout(REST_S), httpx.AsyncClient() as connection:
        while True:
            streams = (await connection.get(f"{server.url}/health")).json()["streams"]
            if streams["active"] == streams["waiting"] == 0:
                return


def memory_bytes(server: Server) -> int:
    processes = psutil.Process(server.process.pid).children(recursive=True)
    return sum(process.memory_info().rss for process in processes)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_two_hundred_requests_leave_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        await crowd(server, 1)
        before = memory_bytes(server)
        await crowd(server, 2)
        assert memory_bytes(server) - before < GROWTH_BYTES
        assert files_in(server.temp) == []
        metrics = (await asyncio.to_thread(httpx.get, f"{server.url}/metrics")).text
        assert "magenta_bento_step_failures_total 0.0" in metrics
        assert not [line for line in server.lines() if "Traceback" in line]
