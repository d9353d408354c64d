"""Two servers on one Redis grant together exactly what one would grant alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import requests
from redis_server import RedisServer, redis_server
from serving import Server, serving

PER_MINUTE = 30
CLIENTS = 50
KEYS = {name: f"{name}-has-a-long-key-0123456789" for name in ("alice", "bob", "carol")}
ADDRESSES = ("127.0.0.1", "127.0.0.2")


@dataclass
class Pair:
    """Two servers and what they share."""

    servers: tuple[Server, Server]
    redis: RedisServer


@pytest.fixture(name="pair", scope="module")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with redis_server() as redis:
        settings = {
            "RATE_LIMIT_PER_MINUTE": str(PER_MINUTE),
            "RATE_LIMIT_STORAGE": redis.url,
            "ENABLE_AUTH": "true",
            "API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
            "METRICS_WITHOUT_KEY": "true",
            "MAX_STREAMS": "1",
        }
        folder = tmp_path_factory.mktemp
        with (
            serving(folder("one"), fake_model=True, **settings) as one,
            serving(folder("other"), fake_model=True, **settings) as other,
        ):
            yield Pair((one, other), redis)


async def embed(client: httpx.AsyncClient, server: Server, key: str) -> httpx.Response:
    headers = {"X-API-Key": KEYS[key]}
    return await client.post(f"{server.url}/embed/text", data={"prompt": "funk"}, headers=headers)


async def ask(pair: Pair, key: str, number: int, times: int) -> list[httpx.Response]:
    """One client's requests, one after the other, to both servers in turn.

    Args:
      number: Which one it is: what decides where it begins, and from which address.
    """
    transport = httpx.AsyncHTTPTransport(local_address=ADDRESSES[number // 2 % 2])
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        return [await embed(client, pair.servers[(number + i) % 2], key) for i in range(times)]


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def assert_honest(answers: list[httpx.Response]) -> None:
    """Who passed is told how many are left, who did not, when to try again."""
    for answer in answers:
        left = answer.headers["RateLimit"]
        assert answer.headers["RateLimit-Policy"] == f'"minute";q={PER_MINUTE};w=60'
        if answer.status_code == 429:
            assert answer.json()["type"] == "rate_limited"
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert left.startswith('"minute";r=0;t=')
    assert len(answers) > PER_MINUTE


async def test_fifty_clients_share_one_limit_exactly(pair: Pair) -> None:
    began = time.monotonic()
    each = await asyncio.gather(*(ask(pair, "alice", number, 3) for number in range(CLIENTS)))
    assert time.monotonic() - began < 60, "the first requests are forgotten already"
    answers = [answer for asked in each for answer in asked]
    assert statuses(answers) == {200: PER_MINUTE, 429: CLIENTS * 3 - PER_MINUTE}
    assert_honest(answers)
    # Both took part; and the two addresses are one client, as they have one key.
    assert len({answer.url.port for answer in answers if answer.status_code == 200}) == 2


async def test_another_key_has_a_limit_of_its_own(pair: Pair) -> None:
    """Also from the addresses of one who has nothing left."""
    each = await asyncio.gather(*(ask(pair, "bob", number, 4) for number in range(10)))
    answers = [answer for asked in each for answer in asked]
    assert statuses(answers) == {200: PER_MINUTE, 429: 40 - PER_MINUTE}
    assert_honest(answers)


async def test_one_server_knows_what_the_other_has_granted(pair: Pair) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        for number in range(6):
            answer = await embed(client, pair.servers[number % 2], "carol")
            left = PER_MINUTE - 1 - number
            assert answer.headers["RateLimit"].startswith(f'"minute";r={left};t=')


def test_the_limit_goes_with_its_store_and_comes_back(pair: Pair) -> None:
    """The last test: who had nothing left passes while nobody counts."""

    def ask_both() -> list[requests.Response]:
        headers = {"X-API-Key": KEYS["alice"]}
        return [
            requests.post(
                f"{server.url}/embed/text", data={"prompt": "funk"}, headers=headers, timeout=30
            )
            for server in pair.servers
        ]

    def stores() -> set[str]:
        return {
            requests.get(f"{server.url}/health", timeout=30).json()["limits"]["store"]
            for server in pair.servers
        }

    assert stores() == {"up"}
    pair.redis.stop()
    for _ in range(5):
        for answer in ask_both():
            assert answer.status_code == 200
            assert answer.elapsed.total_seconds() < 2
            assert "RateLimit" not in answer.headers
    assert stores() == {"down"}
    for server in pair.servers:
        exposed = requests.get(f"{server.url}/metrics", timeout=30).text
        assert "magenta_bento_limit_store_up 0.0" in exposed
    pair.redis.start()
    deadline = time.monotonic() + 10
    while stores() != {"up"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = [answer.headers["RateLimit"] for answer in ask_both()]
    assert [left.partition(";t=")[0] for left in told] == ['"minute";r=29', '"minute";r=28']
    for server in pair.servers:
        turns = [line for line in server.lines() if "the store of the limits: " in line]
        assert len(turns) == 2
        assert "[ERROR]" in turns[0]
        assert "[INFO]" in turns[1]
