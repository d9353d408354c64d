"""What a live connection does when its client, its engine or its server fails it.

The routes are the service's own, behind the same web server, on a model that obeys the test.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
import websockets
from fake_model import FakeModel, Rig, rig, until
from fake_prompter import FakePrompter
from jam_client import START, JamClient, jam_at
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware

from magenta_bento.access.access_control import AccessControl
from magenta_bento.config import Settings
from magenta_bento.errors import NotReady
from magenta_bento.live import connection, protocol
from magenta_bento.metrics import Metrics
from magenta_bento.web import websocket_routes
from magenta_bento.web.access_log import AccessLogMiddleware
from magenta_bento.web.admission import AdmissionMiddleware
from magenta_bento.web.request_status import Progress

SMALL_BYTES = 8_192  # of kernel buffers, so that a client that doesn't read is felt soon
STALL_S = 1.0
LYRIA = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateMusic"


class FakeRuntime:
    """Ready, unless told that it is not."""

    def __init__(self, running: Rig) -> None:
        self.files = SimpleNamespace(name="fake")
        self.is_ready = True
        self.settings = Settings(
            rate_limit_per_minute=0, rate_limit_per_hour=0, max_concurrent_per_client=0
        )
        self.metrics = Metrics(CollectorRegistry())
        self.access = AccessControl.from_settings(self.settings, self.metrics)
        self._loaded = SimpleNamespace(engine=running.engine, prompter=FakePrompter())

    @property
    def loaded(self) -> Any:
        if not self.is_ready:
            raise NotReady("the server takes no requests: its model is loading")
        return self._loaded


@dataclass
class Place:
    """A server in this process."""

    url: str
    rig: Rig
    runtime: FakeRuntime
    web: uvicorn.Server

    async def at_rest(self) -> None:
        """Waits until no stream plays and no connection is served."""
        await self.rig.at_rest()
        await until(lambda: not self.web.server_state.tasks)


@contextmanager
def placed(model: FakeModel, **options: Any) -> Iterator[Place]:
    with rig(model, **options) as running, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        listening.bind(("127.0.0.1", 0))
        runtime: Any = FakeRuntime(running)
        guarded = [
            Middleware(AccessLogMiddleware, runtime=lambda: runtime),
            Middleware(AdmissionMiddleware, runtime=lambda: runtime, progress=Progress()),
        ]
        app = Starlette(routes=websocket_routes.routes(lambda: runtime), middleware=guarded)
        web = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not web.started:
                time.sleep(0.001)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield Place(url, running, runtime, web)
        finally:
            web.should_exit = True
            thread.join()


@pytest.fixture
def one() -> Iterator[Place]:
    """A server that plays one stream at a time."""
    with placed(FakeModel(batch_sizes=(1,)), queue_bound=1) as place:
        yield place


def deaf(url: str) -> socket.socket:
    """A connected socket whose kernel keeps little of what it is sent."""
    ear = socket.socket()
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    ear.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    return ear


async def test_a_slow_reader_is_closed_with_a_reason(
    one: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_S", STALL_S)
    address = one.url.replace("http", "ws") + "/ws/jam"
    async with websockets.connect(
        address, sock=deaf(one.url), compression=None, max_queue=1
    ) as client:
        await client.send(json.dumps(START))
        await until(lambda: one.rig.engine.active == 1)
        await one.rig.at_rest()  # the slot is free, though the client still reads nothing
        frames = sum(frames for _, frames in one.rig.model.steps)
        assert frames < 300  # ten seconds of lead, and a little
        jam = JamClient(client)
        assert await jam.closed() == (1008, "nothing was read for 1 seconds")
    assert jam.told[-1]["type"] == "error"
    assert jam.told[-1]["error_type"] == "slow_reader"
    assert jam.told[-1]["fatal"]
    await one.at_rest()


@pytest.mark.parametrize("path", ["/ws/jam", LYRIA])
async def test_a_client_that_never_reads_again_is_left(
    one: Place, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.1)
    address = one.url.replace("http", "ws") + path
    lyria: list[Any] = [
        {"setup": {}},
        {"clientContent": {"weightedPrompts": [{"text": "a"}]}},
        {"playbackControl": "PLAY"},
    ]
    async with websockets.connect(
        address, sock=deaf(one.url), compression=None, max_queue=1, close_timeout=0.1
    ) as client:
        for message in [START] if path == "/ws/jam" else lyria:
            await client.send(json.dumps(message))
        await until(lambda: one.rig.engine.active == 1)
        await one.at_rest()


async def test_a_failing_model_closes_with_its_reason(one: Place) -> None:
    async with jam_at(one.url) as jam:
        await jam.start()
        await jam.hear(5)
        one.rig.model.fail("step")
        await jam.ask(type="ping")
        assert await jam.closed() == (1011, "the model failed while it made this audio")
    assert jam.told[-1]["error_type"] == "generation_failed"
    assert jam.told[-1]["fatal"]


async def test_who_waits_is_told_the_place_in_the_queue(one: Place) -> None:
    async with jam_at(one.url) as playing, jam_at(one.url) as waiting:
        await playing.start()
        await playing.hear(5)
        await waiting.start()
        assert (await waiting.stats())["queue"] == 0
        assert (await waiting.stats())["queue"] == 0  # and again, though no audio comes
        assert waiting.chunks == []
        await playing.ask(type="stop")
        await waiting.hear(5)
        while (await waiting.stats())["queue"] is not None:
            pass


async def test_changes_while_waiting_hold_from_the_first_frame(one: Place) -> None:
    async with jam_at(one.url) as playing, jam_at(one.url) as waiting:
        await playing.start()
        await playing.hear(5)
        await waiting.start(seed=3)
        assert (await waiting.ask(type="update", top_k=9))["frame"] == 0
        assert (await waiting.ask(type="reset", seed=4))["frame"] == 0
        await playing.ask(type="stop")
        heard = await waiting.hear(10)
        await waiting.start(seed=4, top_k=9)
        assert np.array_equal(heard, await waiting.hear(10))


async def test_a_full_queue_closes_with_try_again_later(one: Place) -> None:
    async with jam_at(one.url) as playing, jam_at(one.url) as waiting, jam_at(one.url) as third:
        await playing.start()
        await playing.hear(5)
        await waiting.start()
        error = await third.ask(**START)
        assert (error["error_type"], error["fatal"]) == ("overloaded", True)
        assert await third.closed() == (1013, error["error"])
        await playing.hear(20)


@pytest.mark.parametrize("path", ["/ws/jam", LYRIA])
async def test_a_server_that_is_not_ready_says_so(one: Place, path: str) -> None:
    one.runtime.is_ready = False
    async with websockets.connect(one.url.replace("http", "ws") + path) as client:
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1012
        assert "loading" in (client.close_reason or "")


async def test_who_says_nothing_is_left(one: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_S", 0.2)
    async with jam_at(one.url) as jam:
        assert await jam.closed() == (1001, "nothing was played or asked for 0.2 seconds")
    async with jam_at(one.url) as jam:
        await jam.start()
        await jam.ask(type="pause")
        code, _ = await jam.closed()
        assert code == 1001
    await one.at_rest()


async def test_who_listens_and_says_nothing_is_not_left(
    one: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "IDLE_S", 0.05)
    async with jam_at(one.url) as jam:
        await jam.start(lead_ms=400)
        await jam.hear(50)


async def test_a_fade_is_heard_in_every_frame(one: Place) -> None:
    """The fake model's samples show which style each frame was made from."""
    async with jam_at(one.url) as jam:
        await jam.start(prompts=[{"text": "a"}])
        await jam.hear(10)
        frame = (await jam.ask(type="update", prompts=[{"text": "a" * 51}], ramp=2.0))["frame"]
        heard = (await jam.hear(frame + 60)).reshape(-1, 1_920, 2)
    styles = heard[:, 0, 0].tolist()
    assert len(set(styles[: frame + 1])) == 1  # the first frame of a fade is the old style still
    changes = [i for i in range(1, len(styles)) if styles[i] != styles[i - 1]]
    assert changes == list(range(frame + 1, frame + 51))
    steps = np.diff([styles[i] for i in [0, *changes]])
    assert len(set(steps.tolist())) == 1  # each as large as the others


async def test_a_hundred_clients_that_break_off_leave_nothing() -> None:
    with placed(FakeModel(batch_sizes=(8,))) as place:

        async def drop(i: int) -> None:
            async with jam_at(place.url) as jam:
                await jam.socket.send(json.dumps({**START, "seed": i}))
                if i % 2:
                    await jam.hear_first()
                jam.socket.transport.abort()

        for _ in range(5):
            await asyncio.gather(*(drop(i) for i in range(20)))
        await place.at_rest()
