"""A server process's phases, and what /health says in each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_model import FakeModel, heard, read, styled, until
from prometheus_client import CollectorRegistry

from magenta_bento.config import Settings
from magenta_bento.engine.stream import Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.errors import GenerationFailed, NotReady, WeightsError
from magenta_bento.metrics import Metrics
from magenta_bento.model import loader
from magenta_bento.model.loader import LoadReport
from magenta_bento.runtime import DEMO_NOTE, Runtime, ServerPhase
from magenta_bento.web.response_models import body as body_of
from magenta_bento.weights.catalog import locate

SETTINGS = Settings(shutdown_grace_s=0)


class Process:
    """A runtime whose model is loaded when, and as, the test says."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.registry = CollectorRegistry()
        self.deaths: list[tuple[BaseException, bool]] = []  # and whether it was still loading
        self.load_now = threading.Event()
        self.error: BaseException | None = None
        self.model = FakeModel(batch_sizes=(1, 4))
        self.model.parameter_bytes = 7  # type: ignore[attr-defined]
        self.runtime = Runtime(settings, locate("demo", settings), Metrics(self.registry), self.die)

    def die(self, error: BaseException, *, while_loading: bool) -> None:
        self.deaths.append((error, while_loading))

    def load(self, *_: Any) -> tuple[FakeModel, LoadReport]:
        self.load_now.wait()
        if self.error is not None:
            raise self.error
        return self.model, LoadReport("demo", "cpu", "float32", {"compile": 0.5})

    async def ready(self) -> None:
        self.load_now.set()
        await until(lambda: self.runtime.phase is ServerPhase.READY)

    def submit(self, frames: int, seed: int = 0) -> Stream:
        spec = StreamSpec(styled(), seed, frames)
        return self.runtime.loaded.engine.submit(spec, asyncio.get_running_loop())

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"magenta_bento_{name}", labels)


@pytest.fixture(name="process")
def _process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    made = Process()
    monkeypatch.setattr(loader, "load_model", made.load)
    monkeypatch.setattr(loader, "device_memory", lambda: {"limit": 100, "in_use": 60})
    before = set(threading.enumerate())
    made.runtime.start()
    yield made
    made.load_now.set()
    made.model.gate.set()
    made.runtime.shut_down()
    for thread in set(threading.enumerate()) - before:
        if thread.name in ("load", "device"):
            thread.join()


def refused(process: Process) -> str:
    with pytest.raises(NotReady) as caught:
        process.runtime.loaded  # noqa: B018
    assert (caught.value.retry_after_s or 0) >= 1
    return caught.value.message


async def test_while_it_loads(process: Process) -> None:
    body = body_of(await process.runtime.health())
    assert body["status"] == "loading"
    assert body["models_loaded"] is False
    assert body["model"] == "demo"
    assert body["note"] == DEMO_NOTE
    assert "streams" not in body
    assert "loading" in refused(process)
    assert process.metric("ready") == 0


async def test_when_it_is_ready(process: Process) -> None:
    await process.ready()
    body = body_of(await process.runtime.health())
    assert body["status"] == "healthy"
    assert body["models_loaded"] is True
    assert (body["device"], body["dtype"]) == ("cpu", "float32")
    assert body["streams"] == {"active": 0, "capacity": 4, "waiting": 0}
    np.testing.assert_array_equal(await read(process.submit(5, seed=3)), heard(3, 5))
    assert process.metric("ready") == 1
    assert process.metric("parameter_bytes") == 7
    assert process.metric("load_seconds", phase="compile") == 0.5
    assert process.metric("load_seconds", phase="styles") is not None
    process.runtime.exposition()
    assert process.metric("device_memory_bytes", kind="in_use") == 60
    assert process.deaths == []


@pytest.mark.parametrize("error", [WeightsError("damaged"), RuntimeError("no such device")])
async def test_when_loading_fails(process: Process, error: Exception) -> None:
    process.error = error
    process.load_now.set()
    await until(lambda: process.deaths)
    assert process.deaths == [(error, True)]
    body = body_of(await process.runtime.health())
    assert body["status"] == "failed"
    assert body["models_loaded"] is False
    assert "failed" in refused(process)
    assert process.metric("ready") == 0


async def test_when_the_engine_dies(process: Process) -> None:
    await process.ready()
    process.model.fail("step")
    process.model.fail("init_state")
    stream = process.submit(50)
    with pytest.raises(GenerationFailed):
        await read(stream)
    await until(lambda: process.deaths)
    assert [while_loading for _, while_loading in process.deaths] == [False]
    assert process.runtime.phase is ServerPhase.FAILED
    assert (await process.runtime.health()).status == "failed"
    assert process.metric("ready") == 0
    refused(process)


async def test_a_shutdown_lets_streams_finish_within_the_grace_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(Settings(shutdown_grace_s=60))
    monkeypatch.setattr(loader, "load_model", process.load)
    process.runtime.start()
    await process.ready()
    process.model.gate.clear()
    streams = [process.submit(30, seed=seed) for seed in range(6)]
    ending = asyncio.create_task(asyncio.to_thread(process.runtime.shut_down))
    await until(lambda: process.runtime.phase is ServerPhase.DRAINING)
    assert process.metric("ready") == 0
    assert "draining" in refused(process)
    health = await process.runtime.health()
    assert (health.status, health.models_loaded, health.device) == ("draining", True, "cpu")
    assert health.streams is not None
    assert health.streams.active + health.streams.waiting == len(streams)
    process.model.gate.set()
    for seed, stream in enumerate(streams):
        np.testing.assert_array_equal(await read(stream), heard(seed, 30))
    await ending
    body = body_of(await process.runtime.health())
    assert body["streams"] == {"active": 0, "capacity": 4, "waiting": 0}
    assert process.deaths == []


async def test_after_the_grace_period_streams_are_cut(process: Process) -> None:
    await process.ready()
    process.model.gate.clear()
    stream = process.submit(10_000)
    ending = asyncio.create_task(asyncio.to_thread(process.runtime.shut_down))
    await until(lambda: process.runtime.phase is ServerPhase.DRAINING)
    engine = process.runtime._loaded.engine  # type: ignore[union-attr]
    await until(lambda: engine._stop)
    process.model.gate.set()
    await ending
    with pytest.raises(NotReady, match="shutting down"):
        await read(stream)


async def test_a_shutdown_while_it_loads_never_becomes_ready(process: Process) -> None:
    await asyncio.to_thread(process.runtime.shut_down)
    assert process.runtime.phase is ServerPhase.DRAINING
    process.load_now.set()
    loaded: Callable[[], object] = lambda: process.runtime._loaded  # noqa: E731
    await until(loaded)
    engine = process.runtime._loaded.engine  # type: ignore[union-attr]
    await until(lambda: not engine.alive)
    assert process.runtime.phase is ServerPhase.DRAINING
    assert process.metric("ready") == 0
    assert process.deaths == []
