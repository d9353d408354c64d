"""Many clients that stay, leave early or misbehave: the server keeps nothing of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from serving import Server, serving

from bench.flood import flood
from bench.hostile_clients import unread_responses
from bench.monitor import Resources

pytestmark = pytest.mark.long

CLIENTS = 16
REQUESTS = 200
IDLE_TIMEOUT_S = 60
GROWTH_BYTES = 60_000_000  # of the second half over the first: a leaked piece has up to 4 MB
REFUSAL_BYTES = 1_000  # of memory; a leaked timer has 5,000
KEY = "key-of-the-soak-test"


async def generate(client: httpx.AsyncClient, server: Server, chance: random.Random) -> None:
    body = {
        "prompt": f"piece {chance.random()}",
        "duration": chance.choice([0.04, 0.5, 2, 5, 20]),
        "seed": chance.randrange(2**32),
        "format": chance.choice(["mp3", "wav", "flac", "ogg"]),
    }
    timeout_s = chance.choice([None, None, 0.01, 0.05, 0.2])
    try:
        async with asyncio.timeout(timeout_s):
            answer = await client.post(f"{server.url}/generate/text", json=body)
            assert answer.status_code in (200, 503), answer.text
    except TimeoutError:
        pass  # the client has left


async def run_clients(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    remaining = iter(range(REQUESTS // 2))

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120) as connection:
            for _ in remaining:
                await generate(connection, server, chance)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    async with asyncio.timeout(IDLE_TIMEOUT_S), httpx.AsyncClient() as connection:
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
        await run_clients(server, 1)
        before = memory_bytes(server)
        await run_clients(server, 2)
        assert memory_bytes(server) - before < GROWTH_BYTES
        assert files_in(server.temp) == []
        metrics = (await asyncio.to_thread(httpx.get, f"{server.url}/metrics")).text
        assert "magenta_bento_step_failures_total 0.0" in metrics
        assert not [line for line in server.lines() if "Traceback" in line]


@pytest.fixture(scope="module", name="guarded")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"ENABLE_AUTH": "true", "API_KEYS": f"soak:{KEY}", "REFUSALS_PER_SECOND": "0"}
    with serving(tmp_path_factory.mktemp("guarded"), fake_model=True, **settings) as running:
        yield running


def test_refusals_take_no_memory(guarded: Server) -> None:
    port = urlsplit(guarded.url).port
    assert port
    flood(port, min_requests=2_000)
    before = memory_bytes(guarded)
    sent = flood(port, min_requests=5_000)
    assert not sent.unexpected
    assert memory_bytes(guarded) - before < REFUSAL_BYTES * sent.requests


def test_what_nobody_reads_does_not_stay(guarded: Server) -> None:
    """The stream's slot and the descriptors are free, although the clients are still there."""
    before = Resources.held_by(guarded).descriptors
    with unread_responses(guarded.url, KEY):
        wait_until(lambda: Resources.held_by(guarded).descriptors > before)
        wait_until(lambda: Resources.held_by(guarded).descriptors <= before)
        streams = httpx.get(f"{guarded.url}/health").json()["streams"]
        assert (streams["active"], streams["waiting"]) == (0, 0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * IDLE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)
