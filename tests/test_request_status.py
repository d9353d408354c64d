"""GET /requests/{id}: how far a request is, told to who sent it and to nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from fake_model import FakeModel, Rig, read, rig, until
from serving import Server, serving

from magenta_bento.access.clients import Client
from magenta_bento.engine.engine import Engine
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.errors import NoSuchRequest
from magenta_bento.web import request_status as module
from magenta_bento.web.context import RequestContext
from magenta_bento.web.request_status import KEPT_REQUESTS, Progress
from magenta_bento.web.response_models import RequestProgress, body
from magenta_bento.web.routes import GENERATE_TEXT

ALICE, BOB = "key alice", "key bob"
FIELDS = set(RequestProgress.model_fields)


def context(request_id: str, client: str = ALICE) -> RequestContext:
    return RequestContext(request_id, GENERATE_TEXT, Client(client, "", ""))


@pytest.fixture(name="one")
def _one() -> Iterator[Rig]:
    """An engine with one slot, which steps only while the model's gate is open."""
    with rig(FakeModel(batch_sizes=(1,))) as made:
        yield made


@pytest.fixture(name="progress")
def _progress() -> Progress:
    return Progress()


def reported(progress: Progress, client: str, request_id: str, engine: Engine) -> dict[str, Any]:
    return body(progress.report(client, request_id, engine))


def state(progress: Progress, one: Rig, request_id: str, client: str = ALICE) -> str:
    told: str = reported(progress, client, request_id, one.engine)["state"]
    return told


def is_unknown(progress: Progress, one: Rig, request_id: str, client: str = ALICE) -> bool:
    try:
        reported(progress, client, request_id, one.engine)
    except NoSuchRequest:
        return True
    return False


async def playing(one: Rig, frames: int | None = 50) -> Stream:
    """A stream that owns the slot, in a step that does not return."""
    one.model.gate.clear()
    stream = one.submit(frames, lead=None if frames else 10)
    await until(lambda: stream.phase is Phase.PLAYING)
    return stream


async def test_a_request_is_followed_from_its_prompts_to_its_end(
    one: Rig, progress: Progress
) -> None:
    mine = context("mine")
    assert is_unknown(progress, one, "mine")
    with progress.track(mine):
        told = reported(progress, ALICE, "mine", one.engine)
        assert told == {
            "id": "mine",
            "state": "preparing",
            "queue_position": None,
            "estimated_wait_s": None,
            "audio_seconds": None,
            "made_seconds": 0.0,
        }
        first = await playing(one)
        stream = one.submit(75)
        mine.attach_stream(stream, one.engine.position(stream))
        told = reported(progress, ALICE, "mine", one.engine)
        assert (told["state"], told["queue_position"]) == ("waiting", 0)
        assert (told["audio_seconds"], told["made_seconds"]) == (3.0, 0.0)
        one.model.gate.set()
        await read(first)
        await until(lambda: stream.frames_made)
        told = reported(progress, ALICE, "mine", one.engine)
        assert told["state"] in ("playing", "finished")
        assert told["queue_position"] is None
        assert told["estimated_wait_s"] is None
        assert 0 < told["made_seconds"] <= 3.0
        await read(stream)
        assert state(progress, one, "mine") == "finished"
    told = reported(progress, ALICE, "mine", one.engine)
    assert (told["state"], told["made_seconds"]) == ("finished", 3.0)
    assert set(told) == FIELDS


async def test_places_in_the_queue_and_what_they_cost(one: Rig, progress: Progress) -> None:
    """The later, the longer; at the speed that was measured."""
    await read(one.submit(100))  # so that there is a speed
    first = await playing(one, 100)
    with ExitStack() as held:
        for number in range(4):
            waiting = context(f"w{number}")
            waiting.attach_stream(one.submit(50), None)
            held.enter_context(progress.track(waiting))
        told = [reported(progress, ALICE, f"w{number}", one.engine) for number in range(4)]
        assert [each["queue_position"] for each in told] == [0, 1, 2, 3]
        waits = [one.engine.wait_s(stream) for stream in one.engine._wait_queue.waiting()]
        assert all(wait is not None and wait > 0 for wait in waits)
        assert waits == sorted(set(waits), key=float)
        for each, wait in zip(told, waits, strict=True):
            assert wait is not None
            assert each["estimated_wait_s"] == round(wait, 1)
        one.model.gate.set()
        await read(first)
        await until(lambda: one.engine.waiting < 4)
        assert reported(progress, ALICE, "w3", one.engine)["queue_position"] in (None, 0, 1, 2)


async def test_behind_music_without_an_end_nothing_is_promised(
    one: Rig, progress: Progress
) -> None:
    endless = await playing(one, None)
    mine = context("mine")
    mine.attach_stream(one.submit(50), None)
    with progress.track(mine):
        told = reported(progress, ALICE, "mine", one.engine)
    assert (told["queue_position"], told["estimated_wait_s"]) == (0, None)
    endless.cancel()


@pytest.mark.parametrize("when", ["waiting", "playing"])
async def test_who_left_is_cancelled(one: Rig, progress: Progress, when: str) -> None:
    """From the moment that the request ends, not from the engine's next step on."""
    first = await playing(one)
    stream = first if when == "playing" else one.submit(50)
    mine = context("mine")
    mine.attach_stream(stream, None)
    with progress.track(mine):
        assert state(progress, one, "mine") == when
        stream.cancel()
    assert not stream.phase.ended
    told = reported(progress, ALICE, "mine", one.engine)
    assert (told["state"], told["queue_position"]) == ("cancelled", None)


async def test_what_failed_has_failed(one: Rig, progress: Progress) -> None:
    one.model.fail("step")
    stream = one.submit(10)
    mine = context("mine")
    mine.attach_stream(stream, None)
    with progress.track(mine):
        await until(lambda: stream.phase.ended)
        assert state(progress, one, "mine") == "failed"
    assert state(progress, one, "mine") == "failed"


async def test_others_are_told_nothing(one: Rig, progress: Progress) -> None:
    mine = context("mine")
    mine.attach_stream(one.submit(5), None)
    for client in (BOB, "", "address 203.0.113.9"):
        with progress.track(mine):
            assert is_unknown(progress, one, "mine", client)
        assert is_unknown(progress, one, "mine", client)
    assert not is_unknown(progress, one, "mine")
    with pytest.raises(NoSuchRequest) as raised:
        progress.report(BOB, "x" * 1000, one.engine)
    assert raised.value.status == 404
    assert len(raised.value.message) < 150


async def test_two_clients_may_use_the_same_id(one: Rig, progress: Progress) -> None:
    theirs, mine = context("1", BOB), context("1")
    theirs.attach_stream(one.submit(25), None)
    with progress.track(theirs), progress.track(mine):
        assert state(progress, one, "1") == "preparing"
        assert state(progress, one, "1", BOB) != "preparing"


async def test_of_two_with_one_id_the_later_is_told(one: Rig, progress: Progress) -> None:
    first, second = context("same"), context("same")
    stream = one.submit(25)
    first.attach_stream(stream, None)
    with progress.track(first):
        await read(stream)
        with progress.track(second):
            assert state(progress, one, "same") == "preparing"
        assert state(progress, one, "same") == "finished"


async def test_what_was_refused_is_not_kept(one: Rig, progress: Progress) -> None:
    with progress.track(context("mine")):
        pass
    assert is_unknown(progress, one, "mine")


async def test_what_is_kept_is_bounded_in_number_and_time(
    one: Rig, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = one.submit(5)
    await read(stream)
    for number in range(KEPT_REQUESTS + 100):
        past = context(str(number))
        past.attach_stream(stream, None)
        with progress.track(past):
            pass
    assert not progress._open
    assert len(progress._ended) == KEPT_REQUESTS
    assert all(
        isinstance(kept, RequestProgress) for kept in progress._ended.values()
    )  # no audio, no stream
    assert is_unknown(progress, one, "99")
    assert not is_unknown(progress, one, "100")
    assert not is_unknown(progress, one, str(KEPT_REQUESTS + 99))
    monkeypatch.setattr(module, "KEPT_S", 0.05)
    short = Progress()
    mine = context("mine")
    mine.attach_stream(stream, None)
    with short.track(mine):
        pass
    assert not is_unknown(short, one, "mine")
    await asyncio.sleep(0.06)
    assert is_unknown(short, one, "mine")
    assert not len(short._ended)


# A real server.

LONG_S = 30
OTHER = {"X-Forwarded-For": "198.51.100.7"}


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that plays one stream at a time."""
    settings = {"MAX_STREAMS": "1", "MAX_DURATION": "600", "TRUSTED_PROXIES": "127.0.0.1"}
    with serving(tmp_path_factory.mktemp("progress"), fake_model=True, **settings) as running:
        yield running


def told(server: Server, request_id: str, **headers: str) -> dict[str, Any]:
    answer = requests.get(f"{server.url}/requests/{request_id}", headers=headers, timeout=30)
    fields: dict[str, Any] = answer.json()
    if answer.status_code == 404:
        return {"state": "unknown", **fields}
    assert answer.status_code == 200, fields
    assert set(fields) == FIELDS
    return fields


def wait_for(server: Server, request_id: str, *states: str, **headers: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (now := told(server, request_id, **headers))["state"] not in states:
        assert time.monotonic() < deadline, f"{request_id} is {now}"
        time.sleep(0.02)
    return now


def test_several_long_requests_of_a_server_with_one_slot(server: Server) -> None:
    def generate(request_id: str) -> requests.Response:
        return requests.post(
            f"{server.url}/generate/text",
            data={"prompt": "slow", "duration": LONG_S, "format": "wav"},
            headers={"X-Request-ID": request_id},
            timeout=120,
        )

    with ThreadPoolExecutor(3) as pool:
        asked: dict[str, Future[requests.Response]] = {}
        for request_id in ("one", "two", "three"):
            asked[request_id] = pool.submit(generate, request_id)
            wait_for(server, request_id, "waiting", "playing")
        one, two, three = (told(server, request_id) for request_id in asked)
        assert one["state"] == "playing"
        assert one["queue_position"] is None
        assert one["audio_seconds"] == LONG_S
        assert [each["queue_position"] for each in (two, three)] == [0, 1]
        assert 0 <= two["estimated_wait_s"] <= three["estimated_wait_s"] < 60
        # Whoever asks from elsewhere learns nothing, not even that there is one.
        elsewhere = told(server, "one", **OTHER)
        assert elsewhere["state"] == "unknown"
        assert elsewhere["type"] == "not_found"
        made = wait_for(server, "one", "playing", "finished")["made_seconds"]
        assert 0 <= made <= LONG_S
        answers = {request_id: future.result() for request_id, future in asked.items()}
    positions = [answer.headers["X-Queue-Position"] for answer in answers.values()]
    assert [answer.status_code for answer in answers.values()] == [200] * 3
    assert positions == ["0", "0", "1"]
    for request_id in answers:
        kept = told(server, request_id)
        assert (kept["state"], kept["made_seconds"]) == ("finished", LONG_S)
    assert told(server, "one", **OTHER)["state"] == "unknown"


def test_a_request_whose_client_left_is_cancelled(server: Server) -> None:
    url = f"{server.url}/generate/text"
    slow = {"prompt": "slow", "duration": 600}
    with pytest.raises(requests.ReadTimeout):
        requests.post(url, data=slow, headers={"X-Request-ID": "left"}, timeout=0.7)
    kept = wait_for(server, "left", "cancelled")
    assert kept["made_seconds"] < 600
    assert kept["audio_seconds"] == 600


def test_a_stream_is_told_of_while_it_plays(server: Server) -> None:
    query = {"prompt": "endless", "duration": "0", "format": "pcm"}
    headers = {"X-Request-ID": "endless"}
    url = f"{server.url}/stream/text"
    with requests.get(url, params=query, headers=headers, stream=True, timeout=60) as answer:
        assert answer.headers["X-Request-ID"] == "endless"
        before = wait_for(server, "endless", "playing")
        assert before["audio_seconds"] is None
        for chunk in answer.iter_content(10_000):
            assert chunk
            if told(server, "endless")["made_seconds"] > before["made_seconds"] + 1:
                break
    assert wait_for(server, "endless", "cancelled")["made_seconds"] > 0


def test_a_request_that_is_refused_leaves_nothing(server: Server) -> None:
    headers = {"X-Request-ID": "wrong"}
    answer = requests.post(f"{server.url}/generate/text", data={}, headers=headers, timeout=30)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (400, "wrong")
    assert told(server, "wrong")["state"] == "unknown"
