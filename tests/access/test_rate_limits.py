"""Limits: what passes, what is told about it, and that what is told comes true."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage
from prometheus_client import CollectorRegistry
from redis_server import RedisServer, redis_server

from magenta_bento.access.rate_limits import Limits
from magenta_bento.access.store import PATIENCE_S, Store
from magenta_bento.config import Settings
from magenta_bento.errors import AudioBudgetSpent, LimitsUnknown, RateLimited
from magenta_bento.metrics import Metrics

BEGIN = 1_800_000_000.0  # a full hour; the day begins at no multiple of what is tested
ALICE, BOB = "key alice", "address 203.0.113.9"


class Clock:
    """What ``time.time`` says while a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = BEGIN
        monkeypatch.setattr("time.time", lambda: self.now)


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make(metrics: Metrics, minute: int = 0, hour: int = 0, audio: int = 0, **more: str) -> Limits:
    settings = Settings.model_validate(
        {
            "rate_limit_per_minute": minute,
            "rate_limit_per_hour": hour,
            "rate_limit_audio_seconds_per_hour": audio,
            **more,
        }
    )
    store = Store(settings.rate_limit_storage.get_secret_value(), metrics)
    return Limits(settings, store, metrics)


async def passes(limits: Limits, client: str = ALICE) -> bool:
    try:
        await limits.request(client)
    except RateLimited:
        return False
    return True


async def refusal(limits: Limits, client: str = ALICE) -> RateLimited:
    with pytest.raises(RateLimited) as raised:
        await limits.request(client)
    return raised.value


async def spends(limits: Limits, seconds: float, client: str = ALICE) -> bool:
    try:
        await limits.spend_audio(client, seconds)
    except AudioBudgetSpent:
        return False
    return True


async def overspent(limits: Limits, seconds: float, client: str = ALICE) -> AudioBudgetSpent:
    with pytest.raises(AudioBudgetSpent) as raised:
        await limits.spend_audio(client, seconds)
    return raised.value


def refused(registry: CollectorRegistry, reason: str) -> float:
    labels = {"reason": reason}
    return registry.get_sample_value("magenta_bento_refused_total", labels) or 0


# RFC 9651: a List of Strings with parameters that are Integers or Strings, which is all that
# the draft of RateLimit and RateLimit-Policy uses.

_STRING = r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_PARAMETER = rf"; *([a-z*][a-z0-9_.*-]*)=(-?\d{{1,15}}|{_STRING})"
_MEMBER = re.compile(rf"({_STRING})((?:{_PARAMETER})*)")
Field = dict[str, dict[str, int | str]]


def structured(header: str) -> Field:
    """The members of such a list."""
    members: Field = {}
    place = 0
    while True:
        found = _MEMBER.match(header, place)
        assert found is not None, f"{header!r} is no structured field at {place}"
        parameters = re.findall(_PARAMETER, found[2])
        members[found[1].strip('"')] = {
            name: value.strip('"') if value.startswith('"') else int(value)
            for name, value in parameters
        }
        place = found.end()
        if place == len(header):
            return members
        comma = re.compile(r"[ \t]*,[ \t]*").match(header, place)
        assert comma is not None, f"{header!r} goes on at {place}"
        place = comma.end()


@pytest.mark.parametrize(
    "wrong", ["", '"a";q', "'a';q=1", '"a";q=1,', '"a";Q=1', '"a" ;q=1', '"a";q=1 "b"', '"ä";q=1']
)
def test_what_is_no_structured_field_is_seen(wrong: str) -> None:
    with pytest.raises(AssertionError):
        structured(wrong)


# Requests.


async def test_any_window_holds_exactly_so_many(metrics: Metrics, clock: Clock) -> None:
    """Not only those that begin with a full minute: the 60 seconds before each moment."""
    limits = make(metrics, minute=5)
    passed: list[float] = []
    for step in range(4000):  # 10 minutes, at an odd pace
        clock.now = BEGIN + step * 0.15 + (step % 7) * 0.01
        if await passes(limits):
            passed.append(clock.now)
        recent = [moment for moment in passed if moment >= clock.now - 60]
        assert len(recent) <= 5
    assert len(passed) >= 5 * 10 - 1  # and nothing less than what is allowed


async def test_clients_are_counted_apart(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, minute=2)
    assert [await passes(limits, ALICE) for _ in range(3)] == [True, True, False]
    assert [await passes(limits, BOB) for _ in range(3)] == [True, True, False]


async def test_many_at_once_are_counted_one_by_one(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, minute=7, hour=100)
    answers = await asyncio.gather(*(passes(limits) for _ in range(200)))
    assert sum(answers) == 7


async def test_headers_tell_what_is_left(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, minute=3, hour=100, audio=600)
    for number in range(3):
        clock.now = BEGIN + 10.25 * number
        headers = await limits.request(ALICE)
        assert set(headers) == {"RateLimit", "RateLimit-Policy"}
        assert structured(headers["RateLimit-Policy"]) == {
            "minute": {"q": 3, "w": 60},
            "hour": {"q": 100, "w": 3600},
            "audio": {"q": 600, "w": 3600, "qu": "audio-seconds"},
        }
        assert structured(headers["RateLimit"]) == {
            "minute": {"r": 2 - number, "t": (60, 50, 40)[number]},
            "hour": {"r": 99 - number, "t": (3600, 3590, 3580)[number]},
        }
    told = await refusal(limits)
    assert structured(told.headers["RateLimit"]) == {"minute": {"r": 0, "t": 40}}
    assert told.headers["Retry-After"] == "40"
    assert told.message == "3 requests in a minute are allowed"


@pytest.mark.parametrize("wait_s", [0.0, 0.003, 0.5, 17.77, 59.2])
async def test_retry_after_comes_true(metrics: Metrics, clock: Clock, wait_s: float) -> None:
    limits = make(metrics, minute=3, hour=100)
    for number in range(3):
        clock.now = BEGIN + number * 0.11
        assert await passes(limits)
    clock.now += wait_s
    told = await refusal(limits)
    assert told.retry_after_s is not None
    if told.retry_after_s > 1:
        clock.now += told.retry_after_s - 1.001
        assert not await passes(limits), "it would have passed a second earlier"
        clock.now += 1.001
    else:
        clock.now += told.retry_after_s
    clock.now += 0.001  # the way of an answer and of a request
    assert await passes(limits)


async def test_retry_after_is_that_of_the_last_limit_to_open(
    metrics: Metrics, clock: Clock
) -> None:
    """Whoever has spent the hour, and then the minute in vain, has to wait for the hour."""
    limits = make(metrics, minute=2, hour=3)
    for _ in range(3):
        assert await passes(limits)
        clock.now += 61
    assert (await refusal(limits)).message == "3 requests in an hour are allowed"
    await refusal(limits)
    told = await refusal(limits)
    assert told.message == "2 requests in a minute are allowed"
    assert told.retry_after_s == 3600 - 3 * 61
    clock.now += told.retry_after_s + 0.001
    assert await passes(limits)


async def test_the_minute_spares_the_hour(metrics: Metrics, clock: Clock) -> None:
    """What the minute refuses takes nothing from the hour."""
    limits = make(metrics, minute=2, hour=5)
    for _ in range(50):
        await passes(limits)
    clock.now += 61
    headers = await limits.request(ALICE)
    assert structured(headers["RateLimit"])["hour"]["r"] == 5 - 3


async def test_refusals_are_counted(
    metrics: Metrics, registry: CollectorRegistry, clock: Clock
) -> None:
    limits = make(metrics, minute=1, audio=10)
    for _ in range(3):
        await passes(limits)
        await spends(limits, 10)
        with pytest.raises(AudioBudgetSpent):
            await limits.check_audio(ALICE, 1)
    assert refused(registry, "rate_limited") == 2
    assert refused(registry, "audio_budget_spent") == 2 + 3


async def test_zero_is_no_limit(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics)
    assert not limits.any_quota
    for _ in range(1000):
        assert await limits.request(ALICE) == {}
    await limits.check_audio(ALICE, 1e9)
    await limits.spend_audio(ALICE, 1e9)
    only_hour = make(metrics, hour=2)
    assert [await passes(only_hour) for _ in range(3)] == [True, True, False]
    headers = await make(metrics, audio=5).request(ALICE)
    assert headers == {"RateLimit-Policy": '"audio";q=5;w=3600;qu="audio-seconds"'}


async def test_who_has_not_asked_for_long_is_forgotten(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, minute=2, hour=5, audio=10)
    for number in range(200):
        await limits.request(f"address {number}")
        await limits.spend_audio(f"address {number}", 3)
    clock.now += 2 * 3600 + 1
    storage: Any = limits._store.storage
    assert isinstance(storage, MemoryStorage)
    for _ in range(2):  # it sweeps beside a request
        await limits.request(ALICE)
        await limits.spend_audio(ALICE, 1)
        if storage.timer is not None:
            await storage.timer
    for held in (storage.events, storage.storage, storage.expirations, storage.locks):
        assert len(held) <= 4


# Seconds of music.


async def test_music_is_taken_from_the_budget(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, audio=60)
    await limits.check_audio(ALICE, 60)
    await limits.check_audio(ALICE, 60)  # checking counts nothing
    assert await spends(limits, 45)
    await limits.check_audio(ALICE, 15)
    with pytest.raises(AudioBudgetSpent):
        await limits.check_audio(ALICE, 15.2)
    told = await overspent(limits, 15.2)
    assert told.message == ("60 seconds of music in an hour are allowed; left: 15, asked for: 16")
    assert structured(told.headers["RateLimit"])["audio"]["r"] == 15
    assert await spends(limits, 15)  # what was refused took nothing
    assert not await spends(limits, 0.04)
    assert await spends(limits, 60, BOB)


async def test_many_at_once_spend_no_more_than_there_is(metrics: Metrics, clock: Clock) -> None:
    limits = make(metrics, audio=100)
    spent = await asyncio.gather(*(spends(limits, 7) for _ in range(50)))
    assert sum(spent) == 100 // 7


@pytest.mark.parametrize("began_s", [0.0, 1.5, 1799.0, 3599.5])
@pytest.mark.parametrize(
    ("spent", "later_s", "asked"),
    [
        ([60], 0, 1),  # all of it in one window
        ([60], 0, 60),
        ([45], 10, 20),
        ([30, 30], 2000, 31),  # in two neighbouring ones
        ([30, 30], 2000, 60),
        ([7, 53], 3500, 8),
        ([59, 1], 3599, 59),
    ],
)
async def test_the_budget_is_back_when_it_was_said(
    metrics: Metrics,
    clock: Clock,
    began_s: float,
    spent: list[int],
    later_s: float,
    asked: int,
) -> None:
    limits = make(metrics, audio=60)
    clock.now = BEGIN + began_s
    for seconds in spent:
        if not await spends(limits, seconds):
            pytest.fail("what is spent first has to fit")
        clock.now += later_s
    if await spends(limits, asked):
        return  # the first of it is forgotten already: asked for too late to be refused
    told = await overspent(limits, asked)
    assert told.retry_after_s is not None
    if told.retry_after_s > 2:
        clock.now += told.retry_after_s - 2
        assert not await spends(limits, asked), "it would have passed two seconds earlier"
        clock.now += 2
    else:
        clock.now += told.retry_after_s
    assert await spends(limits, asked)


async def test_what_no_budget_holds_is_not_to_be_tried_again(
    metrics: Metrics, clock: Clock
) -> None:
    limits = make(metrics, audio=60)
    for ask in (limits.check_audio, limits.spend_audio):
        with pytest.raises(AudioBudgetSpent) as raised:
            await ask(ALICE, 61)
        assert "Retry-After" not in raised.value.headers
    assert await spends(limits, 60)


# A store that several servers share.


@pytest.fixture(name="redis", scope="module")
def _redis() -> Any:
    with redis_server() as running:
        yield running


async def close(*all_: Limits) -> None:
    for limits in all_:
        storage: Any = limits._store.storage
        await storage.bridge.storage.aclose()


@pytest.fixture(name="pair")
async def _pair(redis: RedisServer, metrics: Metrics) -> AsyncIterator[tuple[Limits, Limits]]:
    """Those of two servers."""
    pair = [make(metrics, 5, 8, 60, rate_limit_storage=redis.url) for _ in range(2)]
    await pair[0]._store.storage.reset()
    yield pair[0], pair[1]
    await close(*pair)


async def test_two_servers_grant_together_what_one_would(pair: tuple[Limits, Limits]) -> None:
    answers = await asyncio.gather(*(passes(pair[i % 2]) for i in range(100)))
    assert sum(answers) == 5
    assert await passes(pair[0], BOB)


async def test_in_redis_the_same_is_told(
    pair: tuple[Limits, Limits], registry: CollectorRegistry
) -> None:
    one, other = pair
    await one.request(ALICE)
    headers = await other.request(ALICE)
    told = structured(headers["RateLimit"])
    assert (told["minute"]["r"], told["hour"]["r"]) == (3, 6)
    assert 59 <= int(told["minute"]["t"]) <= 60
    for limits in (one, other, one):
        await limits.request(ALICE)
    assert (await refusal(other)).retry_after_s in (59, 60)
    assert refused(registry, "rate_limited") == 1


async def test_in_redis_music_is_charged_alike(pair: tuple[Limits, Limits]) -> None:
    one, other = pair
    assert await spends(one, 40)
    told = await overspent(other, 21)
    assert "left: 20, asked for: 21" in told.message
    # One of the 40 has to be out of sight: an hour, until they begin to leave it, and a moment.
    assert told.retry_after_s is not None
    assert 3590 < told.retry_after_s <= 3601
    assert await spends(other, 20)
    assert "Retry-After" not in (await overspent(one, 61)).headers
    spent = await asyncio.gather(*(spends(pair[i % 2], 7, BOB) for i in range(40)))
    assert sum(spent) == 60 // 7


@pytest.mark.parametrize("setting", ["open", "closed"])
async def test_without_the_store_the_setting_decides(
    metrics: Metrics, registry: CollectorRegistry, setting: str
) -> None:
    more = {"rate_limit_storage": "redis://127.0.0.1:1", "rate_limit_on_store_failure": setting}
    limits = make(metrics, 5, 8, 60, **more)
    asks = (
        lambda: limits.request(ALICE),
        lambda: limits.check_audio(ALICE, 10),
        lambda: limits.spend_audio(ALICE, 10),
    )
    for ask in asks:
        async with asyncio.timeout(PATIENCE_S + 0.3):
            if setting == "open":
                assert not await ask()  # it passes, and nothing is told that is not known
                continue
            with pytest.raises(LimitsUnknown) as raised:
                await ask()
        assert (raised.value.status, raised.value.retry_after_s) == (503, 2)
    assert refused(registry, "limits_unknown") == (len(asks) if setting == "closed" else 0)
    assert limits.unavailable is (setting == "closed")
    await close(limits)
