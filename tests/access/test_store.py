"""The store of the limits: a Redis that is down costs little time, and is told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from prometheus_client import CollectorRegistry
from redis_server import RedisServer, redis_server

from magenta_bento.access import store as module
from magenta_bento.access.access_control import AccessControl
from magenta_bento.access.store import CONNECTIONS, PATIENCE_S, RETRY_S, Store
from magenta_bento.config import IN_MEMORY, Settings
from magenta_bento.errors import ConfigError
from magenta_bento.metrics import Metrics

LIMIT_S = PATIENCE_S + 2  # what it takes, and what a busy machine adds
AT_ONCE_S = PATIENCE_S / 2  # without a question to a store that is down
PASSWORD = "not-to-be-shown"


@pytest.fixture(name="redis")
def _redis() -> Iterator[RedisServer]:
    with redis_server(password=PASSWORD) as running:
        yield running


@pytest.fixture(name="store")
async def _store(redis: RedisServer, metrics: Metrics) -> AsyncIterator[Store]:
    store = Store(redis.url, metrics)
    yield store
    if redis.running:
        redis.resume()
    await store.storage.bridge.storage.aclose()  # type: ignore[union-attr]


async def hit(store: Store, client: str = "alice", most: int = 1000) -> bool | None:
    limiter = MovingWindowRateLimiter(store.storage)
    return await store.ask(limiter.hit(RateLimitItemPerMinute(most), client))


async def timed(store: Store) -> tuple[bool | None, float]:
    began = time.monotonic()
    return await hit(store), time.monotonic() - began


def up(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("magenta_bento_limit_store_up")


async def until_up(store: Store) -> None:
    """Asks until it is answered, which must not last longer than the next try."""
    deadline = time.monotonic() + RETRY_S + 1
    while await hit(store) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_store_in_memory_is_always_up(metrics: Metrics) -> None:
    store = Store(IN_MEMORY, metrics)
    assert not store.shared
    assert await store.answers()
    assert [await hit(store, most=2) for _ in range(3)] == [True, True, False]


async def test_a_busy_process_does_not_lose_its_own_store(metrics: Metrics) -> None:
    """It waits for its answer, however long: nothing passes uncounted."""
    store = Store(IN_MEMORY, metrics)

    async def slow() -> str:
        await asyncio.sleep(PATIENCE_S + 0.2)
        return "answer"

    assert await store.ask(slow()) == "answer"
    assert store.up


async def test_a_redis_counts(store: Store, registry: CollectorRegistry) -> None:
    assert store.shared
    assert await store.answers()
    assert [await hit(store, most=2) for _ in range(3)] == [True, True, False]
    assert up(registry) == 1


async def test_many_at_once_are_counted_exactly(store: Store) -> None:
    """More of them than connections, which must not look as if the store were down."""
    answers = await asyncio.gather(*(hit(store, most=300) for _ in range(CONNECTIONS * 20)))
    assert answers.count(True) == 300
    assert answers.count(None) == 0
    assert store.up


async def test_down_at_start(metrics: Metrics, registry: CollectorRegistry) -> None:
    with redis_server(started=False) as redis:
        store = Store(redis.url, metrics)
        answer, seconds = await timed(store)
        assert answer is None
        assert seconds < LIMIT_S
        assert not await store.answers()
        assert up(registry) == 0
        redis.start()
        await until_up(store)
        assert up(registry) == 1


async def test_a_store_that_hangs_costs_one_wait(store: Store, redis: RedisServer) -> None:
    assert await hit(store)
    redis.pause()
    waited = await asyncio.gather(*(timed(store) for _ in range(CONNECTIONS * 3)))
    assert {answer for answer, _ in waited} == {None}
    assert max(seconds for _, seconds in waited) < LIMIT_S
    began = time.monotonic()
    assert [await hit(store) for _ in range(100)] == [None] * 100
    assert time.monotonic() - began < AT_ONCE_S


async def test_while_it_is_down_one_asks_and_nobody_else_waits(
    store: Store, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.3)
    redis.pause()
    await hit(store)
    await asyncio.sleep(0.35)
    waited = sorted(seconds for _, seconds in await asyncio.gather(*map(timed, [store] * 20)))
    assert waited[-2] < AT_ONCE_S
    assert PATIENCE_S * 0.9 < waited[-1] < LIMIT_S


async def test_what_is_asked_again_has_its_own_answer(store: Store, redis: RedisServer) -> None:
    """A connection whose question was given up must not answer the next one with it."""
    assert await hit(store)
    redis.pause()
    asking = [asyncio.create_task(hit(store, "bob")) for _ in range(CONNECTIONS * 2)]
    await asyncio.sleep(0.1)
    for task in asking[::2]:
        task.cancel()  # as when its client leaves
    await asyncio.gather(*asking, return_exceptions=True)
    redis.resume()
    await until_up(store)
    assert [await hit(store, "carol", most=3) for _ in range(5)] == [True] * 3 + [False] * 2


async def test_a_restart_that_nobody_noticed_costs_nothing(
    store: Store, redis: RedisServer, log: pytest.LogCaptureFixture
) -> None:
    """Connections that the old server closed are not taken for a server that is down."""
    await asyncio.gather(*(hit(store) for _ in range(CONNECTIONS)))
    redis.stop()
    redis.start()
    assert [await hit(store) for _ in range(CONNECTIONS)] == [True] * CONNECTIONS
    assert log.messages == []


async def test_it_comes_back_and_each_turn_is_told_once(
    store: Store,
    redis: RedisServer,
    registry: CollectorRegistry,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.1)
    assert await hit(store)
    for _ in range(2):
        redis.stop()
        for _ in range(5):
            assert not await store.answers()
            assert await hit(store) is None
            await asyncio.sleep(0.05)
        assert up(registry) == 0
        redis.start()
        await until_up(store)
        assert await store.answers()
        assert up(registry) == 1
    told = [(record.levelname, record.message.split(":")[1]) for record in log.records]
    down, again = ("ERROR", " ConnectionError"), ("INFO", " it answers again")
    assert told == [down, again, down, again]


@pytest.mark.parametrize(("setting", "refuses"), [("open", False), ("closed", True)])
async def test_readiness_follows_the_setting(
    redis: RedisServer, metrics: Metrics, setting: str, refuses: bool
) -> None:
    settings = Settings.model_validate(
        {"rate_limit_storage": redis.url, "rate_limit_on_store_failure": setting}
    )
    gate = AccessControl.from_settings(settings, metrics)
    assert not await gate.refuses_all()
    redis.stop()
    for _ in range(3):  # the answer does not depend on who asked before
        assert await gate.refuses_all() is refuses


async def test_who_counts_nothing_needs_no_store(redis: RedisServer, metrics: Metrics) -> None:
    none = {"rate_limit_per_minute": 0, "rate_limit_per_hour": 0}
    settings = Settings.model_validate(
        {"rate_limit_storage": redis.url, "rate_limit_on_store_failure": "closed", **none}
    )
    gate = AccessControl.from_settings(settings, metrics)
    redis.stop()
    assert not await gate.refuses_all()


async def test_no_password_reaches_the_log(
    redis: RedisServer, metrics: Metrics, log: pytest.LogCaptureFixture
) -> None:
    for url in (
        redis.url.replace(PASSWORD, f"{PASSWORD}-but-wrong"),
        f"redis://:{PASSWORD}@127.0.0.1:1",
        f"redis://user:{PASSWORD}@no-such-host.invalid:6379",
    ):
        assert not await Store(url, metrics).answers()
    redis.stop()
    assert not await Store(redis.url, metrics).answers()
    assert len(log.records) == 4
    assert PASSWORD not in log.text


@pytest.mark.parametrize(
    "url",
    [
        "redis://:not-to/be-shown@host:6379",
        "redis://:not-to#be-shown@host:6379",
        "redis://:not-to-be-shown@host:port",
        "redis://:not-to-be-shown@[host",
        "redis://:not-to-be-shown@host?max_connections=many",
        "redis://:not-to-be-shown@host?colour=red",
    ],
)
def test_a_url_that_cannot_be_read_is_a_wrong_setting(url: str, metrics: Metrics) -> None:
    with pytest.raises(ConfigError) as raised:
        Store(url, metrics)
    assert str(raised.value).startswith("RATE_LIMIT_STORAGE: ")
    assert "shown" not in str(raised.value)
    assert raised.value.__suppress_context__
