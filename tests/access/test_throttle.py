"""The pace of refusals: a burst at once, a rate after it, and nobody waits for long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from magenta_bento.access import throttle as module
from magenta_bento.access.throttle import BURST_S, LONGEST_S, RefusalThrottle

PER_S = 8  # in steps that floats hold exactly


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set; sleeping moves nothing, it only notes for how long."""
    now = [1_000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture(name="slept")
def _slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    return slept


async def delays(pace: RefusalThrottle, slept: list[float], count: int) -> list[float]:
    found = []
    for _ in range(count):
        slept.clear()
        await pace.wait()
        found.append(slept[0] if slept else 0.0)
    return found


async def test_a_burst_leaves_at_once_and_the_rest_at_the_rate(
    clock: list[float], slept: list[float]
) -> None:
    found = await delays(RefusalThrottle(PER_S), slept, 10)
    burst = int(BURST_S * PER_S) + 1
    assert found[:burst] == [0.0] * burst
    assert found[burst:] == [n / PER_S for n in range(1, 11 - burst)]


async def test_nobody_waits_longer_than_the_longest(clock: list[float], slept: list[float]) -> None:
    pace = RefusalThrottle(PER_S)
    assert max(await delays(pace, slept, 1_000)) == LONGEST_S
    # And no debt is left of them: who comes after that waits for those who were in line.
    clock[0] += LONGEST_S + BURST_S
    assert await delays(pace, slept, 1) == [0.0]


async def test_a_quiet_time_allows_no_larger_burst(clock: list[float], slept: list[float]) -> None:
    pace = RefusalThrottle(PER_S)
    await delays(pace, slept, 5)
    clock[0] += 3_600
    found = await delays(pace, slept, 20)
    assert found.count(0.0) == int(BURST_S * PER_S) + 1


async def test_0_is_no_bound(slept: list[float]) -> None:
    assert await delays(RefusalThrottle(0), slept, 1_000) == [0.0] * 1_000


async def test_waiting_holds_up_nobody_else() -> None:
    pace = RefusalThrottle(PER_S)
    waiting = [asyncio.create_task(pace.wait()) for _ in range(50)]
    await asyncio.sleep(0)
    assert any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
