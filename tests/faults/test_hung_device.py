"""A device that does not come back: everybody is told, and the process is ended, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from fake_model import HANG_S, FakeModel, Rig, read, rig, until

from magenta_bento.engine import watchdog
from magenta_bento.engine.stream import Phase
from magenta_bento.errors import GenerationFailed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT_S", 0.2)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.02)


@contextmanager
def hanging(model: FakeModel) -> Iterator[Rig]:
    """An engine whose steps hang until the test is over."""
    with rig(model) as made:
        model.gate.clear()
        yield made
        model.gate.set()
        made.engine._thread.join(HANG_S)


class HangingInsert(FakeModel):
    """Hangs before a stream has its slot."""

    def insert(self, *args: object) -> object:
        self.gate.wait()
        return super().insert(*args)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [FakeModel, HangingInsert])
async def test_a_step_that_never_returns_is_the_end(model: type[FakeModel]) -> None:
    with hanging(model(batch_sizes=(1,))) as made:
        streams = [made.submit(30, seed=seed) for seed in range(3)]
        for stream in streams:  # one in its slot or on the way there, two that wait
            with pytest.raises(GenerationFailed, match="the server restarts"):
                await read(stream)
            assert stream.phase is Phase.FAILED
        await until(lambda: made.deaths)
        assert isinstance(made.deaths[0], TimeoutError)
        assert not made.engine.alive
        with pytest.raises(GenerationFailed, match="the server restarts"):
            made.submit(3)
        assert made.metric("active_streams") == made.metric("queue_length") == 0


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_device_that_wakes_after_it_was_given_up_does_no_more_harm(breaks: bool) -> None:
    with rig(FakeModel(batch_sizes=(1,))) as made:
        made.model.gate.clear()
        stream = made.submit(30)
        await until(lambda: made.deaths)
        if breaks:  # so that the device thread gives up too
            made.model.fail("step")
            made.model.fail("init_state")
        made.model.gate.set()
        made.engine._thread.join(HANG_S)
        assert not made.engine._thread.is_alive()
        assert stream.phase is Phase.FAILED
        assert len(made.deaths) == 1
        assert made.metric("streams_total", outcome="failed") == 1
        assert made.metric("streams_total", outcome="finished") == 0


async def test_a_shutdown_does_not_wait_for_a_device_that_hangs() -> None:
    with hanging(FakeModel(batch_sizes=(1,))) as made:
        stream = made.submit(30)
        await until(lambda: made.engine.active == 1)
        async with asyncio.timeout(HANG_S):
            await asyncio.to_thread(made.engine.stop)
        with pytest.raises(GenerationFailed):
            await read(stream)
        assert len(made.deaths) == 1  # so that the process ends, though one of its threads hangs


async def test_an_engine_that_rests_does_not_hang() -> None:
    with rig(FakeModel(batch_sizes=(1, 4))) as made:
        still = made.submit(None, lead=5)  # its reader does not read
        await until(lambda: still.frames_made == 5)
        await asyncio.sleep(3 * watchdog.LIMIT_S)
        assert made.deaths == []
        await read(made.submit(3))


class Looks(threading.Event):
    """Lets a watchdog look so often, without waiting in between."""

    def __init__(self, times: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._times = times
        self._meanwhile = meanwhile

    def wait(self, timeout: float | None = None) -> bool:
        self._meanwhile()
        self._times -= 1
        return self._times < 0


def barks(looks: int, *, turning: bool = False) -> bool:
    barked = threading.Event()
    dog = watchdog.Watchdog(barked.set)
    dog._over = Looks(looks, dog.heartbeat if turning else lambda: None)
    dog.heartbeat()
    dog._run()
    return barked.is_set()


def test_many_turns_are_not_one_long_turn() -> None:
    enough = round(watchdog.LIMIT_S / watchdog.LOOK_EVERY_S) + 1
    assert barks(enough)
    assert not barks(10 * enough, turning=True)


def test_a_process_that_was_stopped_did_not_hang() -> None:
    """Looks are counted: however long it is between two, they are two."""
    assert not barks(5)
