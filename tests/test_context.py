"""One context a request: its id, its music, and what is cancelled when its client leaves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.web.context import UNKNOWN, RequestContext
from magenta_bento.web.routes import GENERATE_TEXT


@pytest.fixture(name="context")
def _context() -> RequestContext:
    return RequestContext("id", GENERATE_TEXT)


def scope(request_id: str | None) -> dict[str, Any]:
    headers = [] if request_id is None else [(b"x-request-id", request_id.encode("latin-1"))]
    return {"type": "http", "headers": headers}


@pytest.mark.parametrize("request_id", ["a", "A.z_0~:+/=-", "x" * 128])
def test_a_valid_id_is_the_clients_own(request_id: str) -> None:
    made = RequestContext.create(scope(request_id), GENERATE_TEXT)
    assert made.id == request_id


@pytest.mark.parametrize("request_id", [None, "", "a b", "x" * 129, "a\n", "é"])
def test_another_id_is_replaced(request_id: str | None) -> None:
    ids = {RequestContext.create(scope(request_id), GENERATE_TEXT).id for _ in range(2)}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


def test_the_context_is_kept_in_the_scope() -> None:
    one = scope("a")
    made = RequestContext.create(one, GENERATE_TEXT)
    assert RequestContext.from_scope(one) is made
    assert made.client is UNKNOWN
    with pytest.raises(KeyError):
        RequestContext.from_scope(scope("a"))


async def test_what_was_begun_is_cancelled_when_the_client_leaves(context: RequestContext) -> None:
    cancelled: list[str] = []
    leaves = asyncio.Event()

    async def receive() -> Message:
        await leaves.wait()
        return {"type": "http.disconnect"}

    context.on_disconnect(lambda: cancelled.append("first"))
    watching = asyncio.create_task(context.watch(receive))
    await asyncio.sleep(0)
    assert cancelled == []
    leaves.set()
    await watching
    assert cancelled == ["first"]
    context.on_disconnect(lambda: cancelled.append("late"))
    assert cancelled == ["first", "late"]


def test_music_of_earlier_streams_counts(context: RequestContext) -> None:
    assert context.audio_s == 0
    for frames, position in ((25, 3), (50, None)):
        stream: Any = SimpleNamespace(frames_made=frames)
        context.attach_stream(stream, position)
    assert context.audio_s == pytest.approx(75 * FRAME_S)
    assert (context.queue_position, context.headers["X-Queue-Position"]) == (0, "0")
