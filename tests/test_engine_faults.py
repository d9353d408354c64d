"""When the device fails: who is told, what goes on, and when the engine gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from fake_model import (
    HANG_S,
    DeviceError,
    FakeModel,
    Rig,
    heard,
    read,
    rig,
    until,
)

from magenta_bento.audio.pcm import Pcm
from magenta_bento.engine import engine as engine_module
from magenta_bento.engine.engine import FAILURES_UNTIL_DEATH
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.errors import GenerationFailed

STEP_FAULTS = ["step", "fetch"]


@pytest.fixture(autouse=True)
def no_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the net under lost wake-ups, a lost one hangs and its test fails."""
    monkeypatch.setattr(engine_module, "IDLE_WAIT_S", 3_600.0)


@pytest.fixture(name="one")
def _one() -> Iterator[Rig]:
    """One slot."""
    with rig(FakeModel(batch_sizes=(1,))) as made:
        yield made


@pytest.fixture(name="unstarted")
def _unstarted() -> Iterator[Rig]:
    """One slot, and a device thread that does not run yet."""
    with rig(FakeModel(batch_sizes=(1,)), started=False) as made:
        yield made


@pytest.fixture(name="four")
def _four() -> Iterator[Rig]:
    """One or four slots."""
    with rig(FakeModel(batch_sizes=(1, 4))) as made:
        yield made


async def read_until_it_fails(stream: Stream) -> tuple[Pcm, GenerationFailed]:
    blocks = [np.zeros((0, 2), np.int16)]
    async with asyncio.timeout(HANG_S):
        with pytest.raises(GenerationFailed) as failed:  # noqa: PT012
            async for block in stream.blocks():
                blocks.append(block)  # noqa: PERF401  # what came before the error counts
    assert stream.phase is Phase.FAILED
    return np.concatenate(blocks), failed.value


@pytest.mark.parametrize("where", STEP_FAULTS)
async def test_the_streams_of_the_batch_fail_and_nobody_else(where: str) -> None:
    with rig(FakeModel(batch_sizes=(1, 4)), started=False) as made:
        streams = [made.submit(60, seed=seed) for seed in range(6)]
        made.model.gate.clear()
        made.engine.start()
        await until(lambda: made.engine.active == 4)
        made.model.fail(where)
        made.model.gate.set()
        for seed, stream in enumerate(streams[:4]):
            got, _ = await read_until_it_fails(stream)
            np.testing.assert_array_equal(got, heard(seed, 60)[: len(got)])
        for seed, stream in enumerate(streams[4:], 4):
            np.testing.assert_array_equal(await read(stream), heard(seed, 60))
        np.testing.assert_array_equal(await read(made.submit(9, seed=9)), heard(9, 9))
        await made.at_rest()
        assert made.engine.alive
        assert made.deaths == []
        assert made.metric("step_failures_total") == 1
        assert made.metric("streams_total", outcome="failed") == 4
        assert made.metric("streams_total", outcome="finished") == 3


@pytest.mark.parametrize("where", STEP_FAULTS)
async def test_what_was_delivered_before_the_fault_is_kept(one: Rig, where: str) -> None:
    stream = one.submit(None, seed=3, lead=10)
    await until(lambda: stream.frames_made == 10)
    one.model.fail(where)
    got, failure = await read_until_it_fails(stream)
    assert len(got) >= len(heard(3, 10))
    np.testing.assert_array_equal(got, heard(3, 100)[: len(got)])
    assert failure.status == 500
    assert "injected" not in failure.message  # what the device says is for the log


@pytest.mark.parametrize("where", [*STEP_FAULTS, "insert"])
async def test_failing_in_a_row_is_the_end(unstarted: Rig, where: str) -> None:
    one = unstarted  # else the first stream may have its slot before the model is told to fail
    streams = [one.submit(60, seed=seed) for seed in range(FAILURES_UNTIL_DEATH + 3)]
    one.model.fail(where, times=FAILURES_UNTIL_DEATH)
    one.engine.start()
    failures = [(await read_until_it_fails(stream))[1] for stream in streams]
    assert sum("the server restarts" in failure.message for failure in failures) >= 2
    await until(lambda: one.deaths)
    one.engine._thread.join(HANG_S)
    assert len(one.deaths) == 1
    assert isinstance(one.deaths[0], DeviceError)
    assert not one.engine.alive
    assert one.engine.active == one.engine.waiting == 0
    assert one.metric("active_streams") == one.metric("queue_length") == 0
    assert one.metric("streams_total", outcome="failed") == len(streams)
    for _ in range(2):
        with pytest.raises(GenerationFailed, match="the server restarts"):
            one.submit(3)
    assert one.engine.drain(0)


@pytest.mark.parametrize("where", [*STEP_FAULTS, "insert"])
async def test_failing_now_and_then_is_not_the_end(one: Rig, where: str) -> None:
    for seed in range(2 * FAILURES_UNTIL_DEATH):
        one.model.fail(where)
        got, _ = await read_until_it_fails(one.submit(20, seed=seed))
        np.testing.assert_array_equal(got, heard(seed, 20)[: len(got)])
        np.testing.assert_array_equal(await read(one.submit(20, seed=seed)), heard(seed, 20))
    assert one.engine.alive
    assert one.deaths == []


async def test_an_insert_that_fails_costs_the_batch_but_not_those_who_wait() -> None:
    with rig(FakeModel(batch_sizes=(1, 4)), started=False) as made:
        streams = [made.submit(30, seed=seed) for seed in range(4)]
        made.model.fail("insert")
        made.engine.start()
        await read_until_it_fails(streams[0])
        for seed, stream in enumerate(streams[1:], 1):
            np.testing.assert_array_equal(await read(stream), heard(seed, 30))
        await made.at_rest()
        assert made.metric("streams_total", outcome="failed") == 1


async def test_a_batch_that_cannot_grow_fails_with_the_one_who_came(four: Rig) -> None:
    first = four.submit(None, seed=1, lead=5)
    await until(lambda: first.frames_made == 5)
    four.model.fail("resize")
    second = four.submit(10, seed=2)
    for stream in (first, second):
        await read_until_it_fails(stream)
    np.testing.assert_array_equal(await read(four.submit(10, seed=2)), heard(2, 10))


@pytest.mark.parametrize("where", STEP_FAULTS)
async def test_a_state_that_cannot_be_made_anew_is_the_end(one: Rig, where: str) -> None:
    one.model.gate.clear()
    streams = [one.submit(30) for _ in range(3)]
    one.model.fail(where)
    one.model.fail("init_state")
    one.model.gate.set()
    for stream in streams:
        await read_until_it_fails(stream)
    await until(lambda: one.deaths)
    assert len(one.deaths) == 1
    with pytest.raises(GenerationFailed):
        one.submit(3)


async def test_streams_that_stand_still_are_told_of_a_fault(four: Rig) -> None:
    still = [four.submit(None, seed=seed, lead=2) for seed in range(2)]
    await until(lambda: all(stream.frames_made == 2 for stream in still))
    four.model.fail("step")
    await read_until_it_fails(four.submit(10))
    for seed, stream in enumerate(still):
        got, _ = await read_until_it_fails(stream)
        np.testing.assert_array_equal(got, heard(seed, 2))


async def test_a_stop_amid_faults_ends(one: Rig) -> None:
    one.model.gate.clear()
    streams = [one.submit(30) for _ in range(4)]
    one.model.fail("step", times=2)
    stopped = asyncio.create_task(asyncio.to_thread(one.engine.stop))
    await until(lambda: one.engine._stop)
    one.model.gate.set()
    async with asyncio.timeout(HANG_S):
        await stopped
    assert all(stream.phase is Phase.FAILED for stream in streams)
    assert one.deaths == []
