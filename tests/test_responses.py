"""What leaves: file names that can harm nobody, and errors in their one shape."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magenta_bento.audio.formats import AudioFormat
from magenta_bento.errors import InvalidInput, Overloaded, ServiceError
from magenta_bento.web.error_middleware import ErrorShapeMiddleware
from magenta_bento.web.responses import (
    MAX_FILENAME_CHARS,
    Rendered,
    audio_response,
    error_response,
    slug,
)

DISPOSITION = re.compile(r"attachment; filename=\"([a-z0-9.-]+)\"(?:; filename\*=UTF-8''(\S+))?")
TEXTS = st.text(max_size=1000) | st.text("\r\n\t\0\";'\\/%.=… \u202eأ🎷漢é", max_size=50)


def piece(title: str, **changed: Any) -> Rendered:
    fields: dict[str, Any] = {
        "data": b"music",
        "format": AudioFormat.mp3,
        "title": title,
        "seed": 42,
        "model": "demo",
        "audio_s": 2.0,
        "took_s": 0.5,
    }
    return Rendered(**{**fields, **changed})


def names(title: str) -> tuple[str, str]:
    """The plain file name, and the one that a browser prefers."""
    header = audio_response(piece(title)).headers["Content-Disposition"]
    parsed = DISPOSITION.fullmatch(header)
    assert parsed, header
    return parsed[1], unquote(parsed[2] or parsed[1], errors="strict")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Disco Funk", "disco-funk"),
        ("  a -- b  ", "a-b"),
        ("größe café", "groe-cafe"),
        ("808", "808"),
        ("½ ﬁ", "12-fi"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\r\nX-Bad: 1", "a-x-bad-1"),
        ('"; filename="b.exe', "filename-b-exe"),
        ("", ""),
        ("...", ""),
        ("🎷", ""),
        ("漢字", ""),
        ("a" * 1000, "a" * MAX_FILENAME_CHARS),
        ("a" * (MAX_FILENAME_CHARS - 1) + " b", "a" * (MAX_FILENAME_CHARS - 1)),
    ],
)
def test_slug(text: str, words: str) -> None:
    assert slug(text) == words


@pytest.mark.parametrize(
    ("title", "plain", "full"),
    [
        ("Disco Funk", "disco-funk-42.mp3", "disco-funk-42.mp3"),
        ("", "music-42.mp3", "music-42.mp3"),
        ("🎷🔥", "music-42.mp3", "music-42.mp3"),
        ("漢字 funk", "funk-42.mp3", "漢字-funk-42.mp3"),
        ("موسيقى هادئة", "music-42.mp3", "موسيقى-هادئة-42.mp3"),
        ("a\u202egpj.exe é", "agpj-exe-e-42.mp3", "a-gpj-exe-é-42.mp3"),
        ("漢" * 1000, "music-42.mp3", "漢" * MAX_FILENAME_CHARS + "-42.mp3"),
    ],
)
def test_file_names(title: str, plain: str, full: str) -> None:
    assert names(title) == (plain, full)


@given(TEXTS)
def test_no_title_harms_a_header_or_a_disk(title: str) -> None:
    for name in names(title):
        assert name.endswith("-42.mp3")
        assert len(name) <= MAX_FILENAME_CHARS + len("-42.mp3")
        assert not re.search(r"[\x00-\x1f\x7f\"\\/:*?<>|;%\u202a-\u202e\u2066-\u2069]", name)
        assert not name.startswith((".", "-"))


@given(TEXTS)
def test_headers_can_be_sent(title: str) -> None:
    for name, value in audio_response(piece(title)).raw_headers:
        assert not re.search(rb"[\r\n\0]", name + value)
        value.decode("ascii")


def test_headers_of_music() -> None:
    response = audio_response(piece("funk", format=AudioFormat.ogg))
    assert response.body == b"music"
    assert response.headers["Content-Type"] == "audio/ogg"
    assert response.headers["X-Seed"] == "42"
    assert response.headers["X-Model"] == "demo"
    assert response.headers["X-Audio-Duration"] == "2.00"
    assert response.headers["X-Generation-Time"] == "0.500"
    assert response.headers["X-Realtime-Factor"] == "4.00"


def test_music_that_took_no_time_has_a_finite_factor() -> None:
    factor = audio_response(piece("funk", took_s=0)).headers["X-Realtime-Factor"]
    assert float(factor) == 2000


def test_an_error() -> None:
    response = error_response(InvalidInput.field("top_k", "must be at least 1", 0))
    assert response.status_code == 400
    assert json.loads(response.body) == {
        "error": "top_k: must be at least 1, got 0",
        "type": "invalid_input",
        "detail": [{"field": "top_k", "message": "must be at least 1", "value": "0"}],
    }


def test_an_error_that_will_pass_says_when() -> None:
    response = error_response(Overloaded("full", retry_after_s=7))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")


# The middleware


async def through(app: ASGIApp) -> Response:
    """What a client gets from an application behind the middleware."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/a", "headers": [], "query_string": b""}
    await ErrorShapeMiddleware(app)(scope, receive, send)
    start, *rest = sent
    response = Response(b"".join(part["body"] for part in rest), start["status"])
    response.raw_headers = start["headers"]
    return response


@pytest.mark.parametrize(
    ("status", "type"),
    [(404, "not_found"), (405, "method_not_allowed"), (499, "error"), (503, "service_unavailable")],
)
async def test_a_foreign_error_is_reshaped(status: int, type: str) -> None:
    response = await through(PlainTextResponse("<h1>no</h1>", status, headers={"Allow": "POST"}))
    body = json.loads(response.body)
    assert list(body) == ["error", "type", "detail"]
    assert (response.status_code, body["type"]) == (status, type)
    assert response.headers["Allow"] == "POST"
    assert int(response.headers["Content-Length"]) == len(response.body)


@pytest.mark.parametrize("answer", [PlainTextResponse("fine"), JSONResponse({"a": 1}, 400)])
async def test_other_answers_pass_as_they_are(answer: Response) -> None:
    response = await through(answer)
    assert (response.status_code, response.body) == (answer.status_code, answer.body)


async def test_an_application_that_raises_is_answered_for() -> None:
    """BentoML waits until its timeout, which here is days, when nothing is ever sent."""

    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    response = await through(raises)
    assert response.status_code == 500
    assert json.loads(response.body)["type"] == ServiceError.type
    assert b"secret" not in response.body


async def test_an_answer_that_broke_off_is_not_begun_anew() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await through(breaks)


async def test_what_is_not_http_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await ErrorShapeMiddleware(app)({"type": "websocket"}, nothing, nothing)
    assert seen == ["websocket"]
