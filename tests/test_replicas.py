"""Three servers behind a real HAProxy, with deploy/'s configuration, sharing a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import requests
from fake_model import until
from programs import program
from redis_server import redis_server
from serving import REPOSITORY, Server, free_port, serving

CONFIGURATION = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"
REPLICAS = 3
PER_MINUTE = 60
# Each test has a key of its own, and with it a count of its own.
KEYS = {name: f"{name}-has-a-long-key-0123456789" for name in ("limits", "jobs", "rolling", "kill")}
START_S = 30
BYTES_PER_S = 48_000 * 4

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@dataclass
class Fleet:
    """See the module.

    Attributes:
      url: The balancer's.
      replicas: The servers behind it.
    """

    url: str
    folder: Path
    settings: dict[str, str]
    replicas: list[Server] = field(default_factory=list)
    _running: list[ExitStack] = field(default_factory=list)

    def start(self, number: int, port: int) -> None:
        """Starts the replica of this number; returns before it serves."""
        stack = ExitStack()
        folder = self.folder / f"{number} at {time.monotonic()}"
        folder.mkdir()
        server = serving(folder, port=port, healthy=False, fake_model=True, **self.settings)
        self.replicas[number:number] = [stack.enter_context(server)]
        self._running[number:number] = [stack]

    def end(self, number: int, sign: signal.Signals = signal.SIGTERM) -> int:
        """Ends one, all of its processes; returns its port."""
        server = self.replicas.pop(number)
        os.killpg(server.process.pid, sign)
        server.process.wait(60)
        self._running.pop(number).close()
        return int(server.url.rpartition(":")[2])

    def close(self) -> None:
        for stack in self._running:
            stack.close()


@pytest.fixture(name="fleet", scope="module")
def _fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    haproxy = program("haproxy", "/usr/sbin/haproxy")
    with redis_server() as redis, ExitStack() as stack:
        settings = {
            "ENABLE_AUTH": "true",
            "API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
            "METRICS_WITHOUT_KEY": "true",
            "RATE_LIMIT_PER_MINUTE": str(PER_MINUTE),
            "RATE_LIMIT_STORAGE": redis.url,
            "MAX_STREAMS": "1",
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        address = f"127.0.0.1:{free_port()}"
        fleet = Fleet(f"http://{address}", tmp_path_factory.mktemp("fleet"), settings)
        stack.callback(fleet.close)
        ports = [free_port() for _ in range(REPLICAS)]
        for number, port in enumerate(ports):
            fleet.start(number, port)
        for server in fleet.replicas:
            server.wait_until_healthy()
        places = {f"REPLICA_{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports, 1)}
        balancer = subprocess.Popen(
            [haproxy, "-db", "-f", str(CONFIGURATION)],
            env={**os.environ, **places, "BIND": address},
        )
        stack.callback(balancer.wait, 30)
        stack.callback(balancer.terminate)
        until_all_take_part(fleet)
        yield fleet


def until_all_take_part(fleet: Fleet) -> None:
    """Until the balancer has sent something to each replica; what it sends counts no limit."""
    deadline = time.monotonic() + START_S
    seen: set[str] = set()
    while len(seen) < len(fleet.replicas):
        assert time.monotonic() < deadline, f"only {seen} take part"
        with contextlib.suppress(OSError):  # the balancer does not listen yet
            answer = requests.get(f"{fleet.url}/livez", timeout=10)
            if answer.status_code == 200:
                seen.add(answer.cookies["REPLICA"])


@asynccontextmanager
async def client(key: str) -> AsyncIterator[httpx.AsyncClient]:
    """One that keeps no cookie, so that the balancer is free to choose."""
    async with httpx.AsyncClient(timeout=120, headers={"X-API-Key": KEYS[key]}) as made:
        made.event_hooks["response"] = [lambda _: _forget(made)]
        yield made


async def _forget(client: httpx.AsyncClient) -> None:
    client.cookies.clear()


async def embed(fleet: Fleet, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(f"{fleet.url}/embed/text", data={"prompt": "funk"})


async def test_a_limit_holds_across_all(fleet: Fleet) -> None:
    async with client("limits") as asking:
        answers = await asyncio.gather(*(embed(fleet, asking) for _ in range(2 * PER_MINUTE)))
    told = Counter(answer.status_code for answer in answers)
    assert told == {200: PER_MINUTE, 429: PER_MINUTE}
    assert len({answer.headers["set-cookie"].split(";")[0] for answer in answers}) == REPLICAS


async def test_a_request_is_found_through_the_balancer(fleet: Fleet) -> None:
    await asyncio.to_thread(until_all_take_part, fleet)
    body = {"prompt": "funk", "duration": 20, "format": "wav"}
    ids = [f"piece-{number}" for number in range(REPLICAS)]
    async with client("jobs") as asking, asyncio.TaskGroup() as making:
        pieces = [
            making.create_task(
                asking.post(f"{fleet.url}/generate/text", json=body, headers={"X-Request-ID": name})
            )
            for name in ids
        ]
        while not all(piece.done() for piece in pieces):
            for name in ids:
                told = await asking.get(f"{fleet.url}/requests/{name}")
                assert told.status_code in (200, 404), told.text  # 404: it is still on its way
            await asyncio.sleep(0.1)
        for name in ids:
            told = await asking.get(f"{fleet.url}/requests/{name}")
            assert told.json()["state"] == "finished"
    assert [piece.result().status_code for piece in pieces] == [200] * REPLICAS
    assert len({piece.result().headers["set-cookie"] for piece in pieces}) > 1


async def test_a_rolling_restart_loses_no_request(fleet: Fleet) -> None:
    answers: list[httpx.Response] = []
    over = asyncio.Event()

    async def ask(asking: httpx.AsyncClient, pause_s: float) -> None:
        body = {"prompt": "funk", "duration": 1, "format": "wav"}
        while not over.is_set():
            answers.append(await asking.post(f"{fleet.url}/generate/text", json=body))
            await asyncio.sleep(pause_s)

    async with client("rolling") as asking, asyncio.TaskGroup() as crowd:
        crowd.create_task(ask(asking, 2.5))
        crowd.create_task(ask(asking, 4))
        for number in range(REPLICAS):
            port = await asyncio.to_thread(fleet.end, number)
            fleet.start(number, port)
            await asyncio.to_thread(fleet.replicas[number].wait_until_healthy)
            await asyncio.to_thread(until_all_take_part, fleet)
        over.set()
    refused = [answer.text for answer in answers if answer.status_code != 200]
    assert refused == []
    assert len(answers) > REPLICAS


async def test_a_killed_replica_costs_its_own_streams_alone(fleet: Fleet) -> None:
    heard = Counter[int]()
    broken: list[int] = []

    async def listen(number: int, asking: httpx.AsyncClient) -> None:
        query = {"prompt": "funk", "duration": "0", "format": "pcm"}
        try:
            async with asking.stream("GET", f"{fleet.url}/stream/text", params=query) as stream:
                assert stream.status_code == 200
                async for block in stream.aiter_bytes():
                    heard[number] += len(block)
        except httpx.TransportError:
            broken.append(number)

    async def until_each_has(seconds: float, numbers: list[int]) -> None:
        wanted = {number: heard[number] + seconds * BYTES_PER_S for number in numbers}
        await until(lambda: all(heard[number] >= wanted[number] for number in numbers))

    async with client("kill") as asking, asyncio.TaskGroup() as crowd:
        listeners = [crowd.create_task(listen(number, asking)) for number in range(REPLICAS)]
        await until_each_has(1, list(range(REPLICAS)))  # one on each: there is one slot on each
        await asyncio.to_thread(fleet.end, 0, signal.SIGKILL)
        await until(lambda: broken)
        spared = [number for number in range(REPLICAS) if number not in broken]
        assert len(spared) == REPLICAS - 1
        await until_each_has(3, spared)
        answers = [await embed(fleet, asking) for _ in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert len(broken) == 1
        for listener in listeners:
            listener.cancel()
