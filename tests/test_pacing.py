"""How far ahead of playback audio is sent, by a clock of our own."""

from __future__ import annotations

import asyncio

import pytest

from magenta_bento.live.pacing import Pacer


class Clock:
    """Seconds that pass only when someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


async def send(pacer: Pacer, block_s: float, times: int = 1) -> None:
    for _ in range(times):
        await pacer.clear_to_send(block_s)
        pacer.sent(block_s)


async def test_the_lead_is_filled_at_once_and_then_kept(clock: Clock) -> None:
    pacer = Pacer(2.0, clock)
    await send(pacer, 0.2, times=10)
    assert clock.now_s == pytest.approx(100.0)
    assert pacer.lead == pytest.approx(2.0)
    for i in range(1, 50):
        await send(pacer, 0.2)
        assert pacer.lead == pytest.approx(2.0)
        assert clock.now_s == pytest.approx(100.0 + 0.2 * i)
    assert pacer.underruns == 0


@pytest.mark.parametrize("block_s", [0.04, 0.2, 0.52])
async def test_the_lead_is_never_above_its_bound(clock: Clock, block_s: float) -> None:
    pacer = Pacer(0.6, clock)
    for _ in range(40):
        await send(pacer, block_s)
        assert pacer.lead <= 0.6 + 1e-9


async def test_nothing_plays_before_the_first_block(clock: Clock) -> None:
    pacer = Pacer(1.0, clock)
    clock.now_s += 60
    assert pacer.lead == 0
    assert pacer.due_in(0.2) == 0
    await send(pacer, 0.2)
    assert pacer.lead == pytest.approx(0.2)
    assert pacer.underruns == 0


async def test_an_underrun_is_counted_and_playback_goes_on_from_there(clock: Clock) -> None:
    pacer = Pacer(1.0, clock)
    await send(pacer, 0.5)
    clock.now_s += 3.5
    assert pacer.lead == pytest.approx(-3.0)
    await send(pacer, 0.2)
    assert pacer.underruns == 1
    assert pacer.lead == pytest.approx(0.2)  # the listener stood still: there is no debt
    await send(pacer, 0.2, times=20)
    assert pacer.underruns == 1
    assert pacer.lead == pytest.approx(1.0)


async def test_a_pause_stops_the_clock(clock: Clock) -> None:
    pacer = Pacer(1.0, clock)
    await send(pacer, 0.2, times=5)
    pacer.pause()
    clock.now_s += 100
    assert pacer.lead == pytest.approx(1.0)
    assert pacer.due_in(0.2) == pytest.approx(0.2)
    pacer.pause()  # twice is as once
    clock.now_s += 100
    pacer.resume()
    pacer.resume()
    assert pacer.lead == pytest.approx(1.0)
    await send(pacer, 0.2)
    assert pacer.underruns == 0


async def test_a_block_that_leaves_during_a_pause(clock: Clock) -> None:
    pacer = Pacer(1.0, clock)
    pacer.pause()
    clock.now_s += 5
    pacer.sent(0.2)
    clock.now_s += 5
    pacer.resume()
    assert pacer.lead == pytest.approx(0.2)


async def test_a_resume_before_anything_was_sent(clock: Clock) -> None:
    pacer = Pacer(1.0, clock)
    pacer.pause()
    clock.now_s += 5
    pacer.resume()
    await send(pacer, 0.2)
    assert pacer.lead == pytest.approx(0.2)


async def test_a_block_longer_than_the_lead_waits_until_all_was_played(clock: Clock) -> None:
    pacer = Pacer(0.1, clock)
    for i in range(5):
        await send(pacer, 0.4)
        assert clock.now_s == pytest.approx(100 + 0.4 * i)
        assert pacer.lead == pytest.approx(0.4)
