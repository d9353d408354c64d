"""The store of the limits is down, comes up, hangs and dies: what the clients of a server see.

What the store itself does then is in tests/access/test_store.py; here are the real server, a
real Redis, and both answers that RATE_LIMIT_ON_STORE_FAILURE can give.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from fake_model import FakeModel
from fault_web import Place, assert_error, placed
from redis_server import RedisServer, redis_server
from serving import Server, serving

from magenta_bento.access.store import PATIENCE_S

ANSWER_S = 0.5  # what a machine at rest takes at most for the rest of a request
ANSWER_PROBES = 100  # and a busy one, in answers to a probe, which asks no store
QUOTA = 3
LIMIT_S = 30
PASSWORD = "not-to-be-shown"


@dataclass
class Shop:
    """A server whose limits are counted in a Redis."""

    server: Server
    redis: RedisServer
    on_failure: str

    def get(self, path: str) -> requests.Response:
        return requests.get(self.server.url + path, timeout=LIMIT_S)

    def ask(self) -> requests.Response:
        """A request that limits count, and that costs next to nothing."""
        body = {"prompt": "funk"}
        return requests.post(f"{self.server.url}/embed/text", json=body, timeout=LIMIT_S)

    def answer_s(self) -> float:
        """What the rest of a request takes at most as things are now, seconds."""
        began = time.monotonic()
        for _ in range(10):
            self.get("/livez")
        return max(ANSWER_S, ANSWER_PROBES * (time.monotonic() - began) / 10)

    def until_store_is(self, state: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.get("/health").json()["limits"]["store"] != state:
            assert time.monotonic() < deadline, f"the store is never {state}"
            time.sleep(0.05)

    def is_counting(self) -> bool:
        """Whether the quota holds: so many pass, and no more."""
        answers = [self.ask() for _ in range(QUOTA + 1)]
        statuses = [answer.status_code for answer in answers]
        return statuses == [200] * QUOTA + [429]


def start(stack: ExitStack, folder: Path, on_failure: str) -> Shop:
    folder.mkdir()
    redis = stack.enter_context(redis_server(password=PASSWORD, started=False))
    settings = {
        "MAX_STREAMS": "1",
        "RATE_LIMIT_STORAGE": redis.url,
        "RATE_LIMIT_ON_STORE_FAILURE": on_failure,
        "RATE_LIMIT_PER_MINUTE": str(QUOTA),
    }
    server = stack.enter_context(serving(folder, healthy=False, fake_model=True, **settings))
    return Shop(server, redis, on_failure)


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[list[Shop]]:
    """Both kinds, started beside each other while their stores are down."""
    with ExitStack() as stack:
        shops = [start(stack, tmp_path / kind, kind) for kind in ("open", "closed")]
        for shop in shops:
            shop.server.wait_until_healthy()
        yield shops
        for shop in shops:
            grumbles = [line for line in shop.server.lines() if "Traceback" in line]
            assert not grumbles
            assert PASSWORD not in shop.server.log.read_text()


def assert_as_without_store(shop: Shop) -> None:
    """Nobody waits; open serves everybody, closed nobody, and both say how it is."""
    for _ in range(2 * QUOTA):
        began = time.monotonic()
        answer = shop.ask()
        assert time.monotonic() - began < PATIENCE_S + shop.answer_s()
        if shop.on_failure == "open":
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers  # nobody knows
        else:
            told = answer.json()
            assert (answer.status_code, told["type"]) == (503, "limits_unknown")
            assert int(answer.headers["Retry-After"]) > 0
    began = time.monotonic()
    health = shop.get("/health")
    assert (health.status_code, health.json()["limits"]) == (200, {"store": "down"})
    assert shop.get("/readyz").status_code == (200 if shop.on_failure == "open" else 503)
    assert "magenta_bento_limit_store_up 0.0" in shop.get("/metrics").text
    assert time.monotonic() - began < 3 * (PATIENCE_S + shop.answer_s())


def test_a_store_that_is_down_and_up_and_down_again(shops: list[Shop]) -> None:
    with ThreadPoolExecutor(len(shops)) as pool:
        list(pool.map(tell, shops))


def tell(shop: Shop) -> None:
    assert_as_without_store(shop)  # down from the start
    shop.redis.start()
    shop.until_store_is("up")
    assert shop.get("/readyz").status_code == 200
    assert shop.is_counting()
    shop.redis.pause()
    assert_as_without_store(shop)  # it takes connections and answers nothing
    shop.redis.resume()
    shop.until_store_is("up")
    assert shop.ask().status_code == 429  # it has forgotten nothing
    shop.redis.stop()
    assert_as_without_store(shop)
    shop.redis.start()
    shop.until_store_is("up")
    assert shop.is_counting()  # an empty one begins anew
    assert "magenta_bento_limit_store_up 1.0" in shop.get("/metrics").text


# Music that plays when the store goes.


@pytest.fixture(name="redis")
def _redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def endless(place: Place, client: httpx.AsyncClient) -> Any:
    body = {"prompt": "funk", "duration": 0, "format": "pcm", "pace": "asap"}
    return client.stream("POST", f"{place.url}/stream/text", json=body)


@pytest.mark.parametrize("on_failure", ["open", "closed"])
async def test_music_that_plays_when_the_store_goes(redis: RedisServer, on_failure: str) -> None:
    """With a budget of music, each ten seconds of it are paid for in advance."""
    settings = {
        "rate_limit_storage": redis.url,
        "rate_limit_on_store_failure": on_failure,
        "rate_limit_audio_seconds_per_hour": 3600,
    }
    with placed(FakeModel(batch_sizes=(1,)), **settings) as place:
        heard_s = at_the_fall_s = 0.0
        broken_off = False
        async with httpx.AsyncClient(timeout=LIMIT_S) as client, endless(place, client) as answer:
            try:
                async for chunk in answer.aiter_bytes():
                    heard_s += len(chunk) / 192_000
                    if not at_the_fall_s:
                        redis.stop()
                        at_the_fall_s = heard_s
                    if heard_s > at_the_fall_s + 60:
                        break
            except httpx.RemoteProtocolError:
                broken_off = True
        assert broken_off == (on_failure == "closed")
        await place.at_rest()
        if on_failure == "closed":
            assert_error(await place.ask(), 503, "limits_unknown")
