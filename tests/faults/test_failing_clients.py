"""Clients that stop reading, or break off with a reset: nothing of theirs stays."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from fake_model import FakeModel, until
from fault_web import Place, placed, post, reset

from magenta_bento.web import streaming

PIECE_S = 60  # 11.5 MB of WAV: far more than any kernel's buffers hold
MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="audio_file"; filename="a"\r\n\r\n'


@pytest.fixture(name="one")
def _one() -> Iterator[Place]:
    """A server that plays one stream at a time."""
    with placed(FakeModel(batch_sizes=(1,))) as place:
        yield place


def asked(**fields: object) -> bytes:
    return json.dumps({"prompt": "funk", "format": "wav", **fields}).encode()


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/generate/text", {"duration": PIECE_S}),
        ("/stream/text", {"duration": PIECE_S}),
        ("/stream/text", {"duration": 0}),
        ("/stream/text", {"duration": 0, "pace": "realtime"}),
    ],
)
async def test_a_client_that_stops_reading_is_left(
    one: Place, monkeypatch: pytest.MonkeyPatch, route: str, fields: dict[str, object]
) -> None:
    from magenta_bento.web import tcp_timeout

    monkeypatch.setattr(streaming, "STALL_S", 0.3)
    tcp_timeout.set_tcp_user_timeout(0.3)
    with one.connect() as ear:
        ear.sendall(post(asked(**fields), route))
        assert await asyncio.to_thread(ear.recv, 15) == b"HTTP/1.1 200 OK"
        await one.at_rest()
        await until(lambda: not one.web.server_state.connections)  # and with it what it was sent
        assert (await one.ask()).status_code == 200


@pytest.mark.parametrize("route", ["/generate/text", "/stream/text"])
async def test_a_reset_while_it_waits(one: Place, route: str) -> None:
    one.model.gate.clear()
    playing = asyncio.create_task(one.ask(duration=10))
    await until(lambda: one.rig.engine.active == 1)
    leaving = [one.connect() for _ in range(5)]
    for connection in leaving:
        connection.sendall(post(asked(), route))
    await until(lambda: one.rig.engine.waiting == 5)
    for connection in leaving:
        reset(connection)
    one.model.gate.set()
    assert (await playing).status_code == 200
    await one.at_rest()
    assert one.rig.metric("streams_total", outcome="cancelled") == 5


@pytest.mark.parametrize("route", ["/generate/text", "/stream/text"])
async def test_a_reset_while_it_is_made(one: Place, route: str) -> None:
    one.model.gate.clear()
    connection = one.connect()
    connection.sendall(post(asked(duration=PIECE_S), route))
    await until(lambda: one.rig.engine.active == 1)
    reset(connection)
    await until(lambda: any(s.cancel_requested for _, s in one.rig.engine._batch.occupied()))
    one.model.gate.set()
    await one.at_rest()
    assert one.rig.metric("streams_total", outcome="cancelled") == 1


@pytest.mark.parametrize("route", ["/generate/text", "/stream/text"])
async def test_a_reset_amid_the_answer(
    one: Place, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    connection = one.connect()
    connection.sendall(post(asked(duration=PIECE_S), route))
    assert await asyncio.to_thread(connection.recv, 15) == b"HTTP/1.1 200 OK"
    reset(connection)
    await one.at_rest()
    assert (await one.ask()).status_code == 200
    assert caplog.text == ""


async def test_a_reset_amid_an_upload(one: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    connection = one.connect()
    whole = post(PART + bytes(4_000_000), "/embed/audio", MULTIPART)
    connection.sendall(whole[:2_500_000])  # more than is kept in memory
    await until(lambda: one.web.server_state.tasks)
    reset(connection)
    await one.at_rest()
    assert caplog.text == ""
