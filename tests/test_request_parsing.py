"""Bodies: what a client meant is what the service gets, whatever the encoding and the bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from magenta_bento.config import Settings
from magenta_bento.errors import (
    InvalidInput,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMedia,
)
from magenta_bento.web import request_parsing
from magenta_bento.web.base_request import ApiRequest, is_list
from magenta_bento.web.bodies import OVERHEAD_BYTES
from magenta_bento.web.request_models import (
    AudioFile,
    AudioRequest,
    BlendRequest,
    EmbedAudioRequest,
    EmbedTextRequest,
    TextRequest,
)
from magenta_bento.web.responses import error_response

MAX_FILE_BYTES = 1_000_000
SETTINGS = Settings(max_file_size_mb=MAX_FILE_BYTES / 1e6)
MODELS = [TextRequest, AudioRequest, BlendRequest, EmbedTextRequest, EmbedAudioRequest]
BENTOML_CLIENT = {"User-Agent": "BentoML HTTP Client/1.4.39"}

PROMPTS = st.text(min_size=1, max_size=1000).filter(lambda text: text.strip() and "\0" not in text)
WEIGHTS = st.floats(-1000, 1000).filter(lambda weight: weight != 0)


class Body:
    """A request's body as it comes in, a chunk a message; then the client waits or leaves."""

    def __init__(
        self, body: bytes | Iterable[bytes], headers: dict[str, str], leaves: bool = False
    ) -> None:
        self._chunks: Iterator[bytes] = iter([body] if isinstance(body, bytes) else body)
        self._leaves = leaves
        self.chunks_read = 0
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
        self.request = Request(scope, self._receive)

    async def _receive(self) -> Message:
        chunk = next(self._chunks, None)
        if chunk is None and self._leaves:
            return {"type": "http.disconnect"}
        self.chunks_read += chunk is not None
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}


def read(model: type[ApiRequest], body: Body) -> Any:
    """The parsed request; the files it had are closed by then."""

    async def run() -> Any:
        async with request_parsing.parsed(body.request, model, SETTINGS) as parsed:
            return parsed

    return asyncio.run(run())


def sent(headers: dict[str, str] | None = None, **how: Any) -> Body:
    """As ``requests`` would send it."""
    prepared = requests.Request("POST", "http://a/", headers=headers, **how).prepare()
    content = prepared.body or b""
    return Body(content.encode() if isinstance(content, str) else content, dict(prepared.headers))


def multipart(*fields: tuple[str, str]) -> Body:
    return sent(files=[(name, (None, value)) for name, value in fields])


def raw(kind: str, body: bytes) -> Body:
    return Body(body, {"Content-Type": kind})


# What was meant


@given(PROMPTS)
def test_a_prompt_is_the_same_in_every_encoding(prompt: str) -> None:
    bodies = [
        multipart(("prompt", prompt)),
        sent(data={"prompt": prompt}),
        sent(json={"prompt": prompt}),
        raw("application/json", json.dumps({"prompt": prompt}, ensure_ascii=False).encode()),
    ]
    assert {read(EmbedTextRequest, body).prompt for body in bodies} == {prompt}


@given(st.lists(PROMPTS, min_size=2, max_size=4))
def test_a_list_of_prompts_is_the_same_in_every_encoding(prompts: list[str]) -> None:
    as_json = json.dumps(prompts)
    bodies = [
        sent(json={"text_prompts": prompts}),
        sent(json={"text_prompts": as_json}),
        sent(data={"text_prompts": prompts}),
        sent(data={"text_prompts": as_json}),
        multipart(*(("text_prompts", prompt) for prompt in prompts)),
        multipart(("text_prompts", as_json)),
    ]
    for body in bodies:
        assert read(BlendRequest, body).text_prompts == prompts


@given(st.lists(WEIGHTS, min_size=1, max_size=4))
def test_weights_are_the_same_in_every_encoding(weights: list[float]) -> None:
    prompts = json.dumps(["a"] * len(weights))
    for written in (
        ",".join(map(str, weights)),
        json.dumps(weights),
        " , ".join(map(repr, weights)),
    ):
        fields = {"text_prompts": prompts, "text_weights": written}
        assert read(BlendRequest, sent(data=fields)).text_weights == weights
    repeated = multipart(
        ("text_prompts", prompts), *(("text_weights", str(weight)) for weight in weights)
    )
    assert read(BlendRequest, repeated).text_weights == weights
    as_json = sent(json={"text_prompts": prompts, "text_weights": weights})
    assert read(BlendRequest, as_json).text_weights == weights


@given(PROMPTS, st.data())
def test_chunks_may_end_anywhere(prompt: str, data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(["files", "data", "json"]))
    fields: Any = {"prompt": (None, prompt) if how == "files" else prompt}
    prepared = requests.Request("POST", "http://a/", **{how: fields}).prepare()
    body = prepared.body if isinstance(prepared.body, bytes) else str(prepared.body).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    parsed = read(EmbedTextRequest, Body(chunks, dict(prepared.headers)))
    assert parsed.prompt == prompt


@given(st.text(max_size=200).filter(lambda text: text.strip()))
def test_bentomls_client_writes_text_as_json_in_forms(prompt: str) -> None:
    written = json.dumps(prompt)
    assert read(EmbedTextRequest, sent(BENTOML_CLIENT, data={"prompt": written})).prompt == prompt
    assert read(EmbedTextRequest, sent(data={"prompt": written})).prompt == written


def test_unescaped_utf_8_in_a_urlencoded_form() -> None:
    body = raw("application/x-www-form-urlencoded", "prompt=größe+%F0%9F%8E%B7".encode())
    assert read(EmbedTextRequest, body).prompt == "größe 🎷"


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        " application/json ",
        "",
    ],
)
def test_content_types_of_json(kind: str) -> None:
    assert read(EmbedTextRequest, raw(kind, b'{"prompt": "a"}')).prompt == "a"


def test_defaults() -> None:
    parsed = read(TextRequest, sent(json={"prompt": "a"}))
    assert parsed.duration == 10
    assert parsed.seed is None
    assert (parsed.temperature, parsed.top_k, parsed.guidance) == (1.3, 40, 3.0)
    assert parsed.format == "mp3"


def test_an_optional_field_left_empty_is_the_default() -> None:
    body = multipart(("prompt", "a"), ("duration", ""), ("seed", ""), ("format", ""))
    assert read(TextRequest, body) == read(TextRequest, sent(json={"prompt": "a"}))


def test_a_request_is_frozen() -> None:
    parsed = read(TextRequest, sent(json={"prompt": "a"}))
    with pytest.raises(ValueError, match="frozen"):
        parsed.prompt = "b"


@pytest.mark.parametrize("notes", [[60], [60, 64, 67], [0, 127], [*range(128)]], ids=len)
def test_notes_are_the_same_in_every_encoding(notes: list[int]) -> None:
    text = ",".join(map(str, notes))
    bodies = [
        sent(json={"prompt": "a", "notes": notes}),
        sent(json={"prompt": "a", "notes": text}),
        sent(json={"prompt": "a", "notes": json.dumps(notes)}),
        sent(data={"prompt": "a", "notes": notes}),
        sent(data={"prompt": "a", "notes": text}),
        multipart(("prompt", "a"), *(("notes", str(note)) for note in notes)),
        multipart(("prompt", "a"), ("notes", json.dumps(notes))),
    ]
    assert {read(TextRequest, body).notes for body in bodies} == {tuple(notes)}


def test_no_notes_is_not_the_same_as_notes_left_out() -> None:
    assert read(TextRequest, sent(json={"prompt": "a", "notes": []})).notes == ()
    assert read(TextRequest, sent(data={"prompt": "a", "notes": "[]"})).notes == ()
    assert read(TextRequest, sent(data={"prompt": "a", "notes": ""})).notes is None
    assert read(TextRequest, sent(json={"prompt": "a", "notes": None})).notes is None


class Lists(ApiRequest):
    """Each way to write the type of a list, and what is none."""

    names: list[str] = Field(default=[])
    numbers: list[int] | None = None
    pair: tuple[int, int] | None = None
    many: Annotated[tuple[float, ...], Field(max_length=3)] | None = None
    bare: Annotated[list[int] | None, Field(description="x")] = None
    one: int | None = None


@pytest.mark.parametrize("name", Lists.model_fields)
def test_what_is_a_list(name: str) -> None:
    assert is_list(Lists.model_fields[name]) == (name in ("names", "numbers", "many", "bare"))


def test_any_list_may_be_repeated_or_written_as_text() -> None:
    assert read(Lists, multipart(("numbers", "1"), ("numbers", "2"))).numbers == [1, 2]
    assert read(Lists, multipart(("many", "1, 2.5"))).many == (1.0, 2.5)
    assert read(Lists, sent(json={"bare": "[3]", "names": "a,b"})).names == ["a", "b"]
    with pytest.raises(InvalidInput, match="one: must be given once"):
        read(Lists, multipart(("one", "1"), ("one", "2")))


# Files


class WithAnOptionalFile(TextRequest):
    """What no route has yet."""

    audio_file: AudioFile | None = None


def test_an_optional_file_may_be_left_out() -> None:
    assert read(WithAnOptionalFile, sent(json={"prompt": "a"})).audio_file is None
    assert read(WithAnOptionalFile, multipart(("prompt", "a"))).uploads("audio_file") == []
    with_file = sent(data={"prompt": "a"}, files={"audio_file": ("b.wav", b"bytes")})
    (upload,) = read(WithAnOptionalFile, with_file).uploads("audio_file")
    assert upload.filename == "b.wav"
    two = [("audio_file", ("b.wav", b"bytes"))] * 2
    with pytest.raises(InvalidInput, match="audio_file: must be given once"):
        read(WithAnOptionalFile, sent(data={"prompt": "a"}, files=two))
    with pytest.raises(InvalidInput, match="audio_file: must be an uploaded file"):
        read(WithAnOptionalFile, sent(json={"prompt": "a", "audio_file": "/etc/passwd"}))


def test_an_upload_has_its_name_and_bytes_and_is_closed_at_the_end() -> None:
    async def run() -> Any:
        body = sent(files={"audio_file": ("größe.WAV", b"bytes")}).request
        async with request_parsing.parsed(body, EmbedAudioRequest, SETTINGS) as parsed:
            (upload,) = parsed.uploads("audio_file")
            assert (upload.filename, upload.file.read()) == ("größe.WAV", b"bytes")
            return upload

    assert asyncio.run(run()).file.closed


def test_a_large_upload_is_closed_too_when_the_work_fails() -> None:
    async def run() -> Any:
        data = bytes(MAX_FILE_BYTES)
        body = sent(files={"audio_file": ("a.wav", data)}).request
        with suppress(ZeroDivisionError):
            async with request_parsing.parsed(body, EmbedAudioRequest, SETTINGS) as parsed:
                (upload,) = parsed.uploads("audio_file")
                assert 1 / 0
        return upload

    assert asyncio.run(run()).file.closed


def test_files_keep_their_order() -> None:
    files = [("audio_files", (f"{i}.wav", b"x")) for i in range(3)]
    parsed = read(BlendRequest, sent(files=files))
    assert [upload.filename for upload in parsed.uploads("audio_files")] == [
        *("0.wav", "1.wav", "2.wav")
    ]


@pytest.mark.parametrize("text", ["http://localhost/a.wav", "/etc/passwd", "a"])
@pytest.mark.parametrize("how", ["data", "json"])
def test_text_in_a_file_field_is_refused(how: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="audio_file: must be an uploaded file"):
        read(EmbedAudioRequest, sent(**{how: {"audio_file": text}}))  # type: ignore[arg-type]


# Bounds


def large_form(size: int) -> tuple[bytes, dict[str, str]]:
    prepared = requests.Request("POST", "http://a/", files={"audio_file": bytes(size)}).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, {"Content-Type": prepared.headers["Content-Type"]}


def test_a_declared_size_is_refused_without_reading() -> None:
    body, headers = large_form(10)
    coming = Body(body, {**headers, "Content-Length": "2000001"})
    with pytest.raises(PayloadTooLarge, match="1 MB"):
        read(EmbedAudioRequest, coming)
    assert coming.chunks_read == 0


def test_an_undeclared_size_is_refused_as_soon_as_it_is_known() -> None:
    body, headers = large_form(50_000_000)
    coming = Body([body[at : at + 100_000] for at in range(0, len(body), 100_000)], headers)
    with pytest.raises(PayloadTooLarge):
        read(EmbedAudioRequest, coming)
    assert coming.chunks_read <= 21


@pytest.mark.parametrize(("size", "taken"), [(MAX_FILE_BYTES, True), (MAX_FILE_BYTES + 1, False)])
def test_the_bound_is_exact(size: int, taken: bool) -> None:
    body = Body(*large_form(size))
    if taken:
        read(EmbedAudioRequest, body)
    else:
        with pytest.raises(PayloadTooLarge, match="1 MB together"):
            read(EmbedAudioRequest, body)


def test_the_bound_is_for_all_files_together() -> None:
    files = [("audio_files", bytes(MAX_FILE_BYTES // 2 + 1))] * 2
    with pytest.raises(PayloadTooLarge):
        read(BlendRequest, sent(files=files))


@pytest.mark.parametrize("how", ["data", "json"])
def test_a_body_without_files_has_a_smaller_bound(how: str) -> None:
    fields: Any = {"prompt": "x" * OVERHEAD_BYTES}
    with pytest.raises(PayloadTooLarge):
        read(EmbedTextRequest, sent(**{how: fields}))


def test_a_client_that_leaves_is_no_fault() -> None:
    body, headers = large_form(1000)
    with pytest.raises(ClientDisconnect):
        read(EmbedAudioRequest, Body([body[:500]], headers, leaves=True))


# Faults


@pytest.mark.parametrize("kind", ["text/plain", "audio/wav", "multipart/mixed; boundary=x"])
def test_another_media_type(kind: str) -> None:
    with pytest.raises(UnsupportedMedia, match=kind.split(";")[0]):
        read(EmbedTextRequest, raw(kind, b"a"))


def test_all_faults_are_told_once_each() -> None:
    with pytest.raises(InvalidInput) as raised:
        read(TextRequest, multipart(("top_k", "0"), ("key", "C"), ("seed", "1"), ("seed", "2")))
    problems = {problem.field: problem.message for problem in raised.value.problems}
    assert problems == {
        "prompt": "is required",
        "top_k": "must be greater than or equal to 1",
        "key": "is not a field of this route",
        "seed": "must be given once",
    }
    assert all(field in raised.value.message for field in problems)


def test_a_faulty_item_is_told_by_its_place() -> None:
    with pytest.raises(InvalidInput) as raised:
        read(BlendRequest, sent(json={"text_prompts": ["a", "b"], "text_weights": [1, 0]}))
    (problem,) = raised.value.problems
    assert (problem.field, problem.value) == ("text_weights[1]", "0")


def is_answerable(error: ServiceError) -> bool:
    """Whether it can be sent, is of bounded size, and is no fault of ours."""
    response = error_response(error)
    return 400 <= response.status_code < 500 and len(response.body) < 20_000


def test_a_thousand_faults_are_told_in_short() -> None:
    fields = {"text_prompts": ["a"], "text_weights": ["x"] * 1000}
    with pytest.raises(InvalidInput, match="and 980 more") as raised:
        read(BlendRequest, sent(json=fields))
    assert is_answerable(raised.value)


def parsed_or_refused(model: type[ApiRequest], body: Body) -> None:
    refusal = None
    try:
        read(model, body)
    except ServiceError as error:
        refusal = error
    assert refusal is None or is_answerable(refusal)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
FIELD_NAMES = st.sampled_from(
    sorted({name for model in MODELS for name in model.model_fields} | {"unknown"})
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(MODELS), st.dictionaries(FIELD_NAMES | st.text(), JSON_VALUES, max_size=6))
def test_any_json_is_parsed_or_refused(model: type[ApiRequest], fields: dict[str, Any]) -> None:
    parsed_or_refused(model, raw("application/json", json.dumps(fields).encode()))


@given(st.sampled_from(MODELS), st.lists(st.tuples(FIELD_NAMES, st.text(max_size=50)), max_size=6))
def test_any_form_is_parsed_or_refused(
    model: type[ApiRequest], fields: list[tuple[str, str]]
) -> None:
    parsed_or_refused(model, sent(data=fields))


@given(
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", ""]),
    st.binary(max_size=300),
)
def test_any_bytes_are_parsed_or_refused(kind: str, body: bytes) -> None:
    parsed_or_refused(EmbedTextRequest, raw(kind, body))


PIECES = [
    *(b"--x", b"\r\n", b"--", b"Content-Disposition: form-data; ", b'name="prompt"', b"\r\n\r\n"),
    *(b'filename="a"', b"; ", b"funk", b"\xff", b"\0", b"Content-Type: text/plain", b'name=""'),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_multipart_is_parsed_or_refused(pieces: list[bytes]) -> None:
    parsed_or_refused(EmbedTextRequest, raw("multipart/form-data; boundary=x", b"".join(pieces)))


@given(st.data())
def test_a_multipart_form_that_is_cut_off_is_refused(data: st.DataObject) -> None:
    prepared = requests.Request(
        "POST", "http://a/", files={"prompt": (None, "funk"), "use_mapper": (None, "true")}
    ).prepare()
    assert isinstance(prepared.body, bytes)
    end = data.draw(st.integers(0, len(prepared.body) - len("--\r\n")))
    with pytest.raises(InvalidInput):
        read(EmbedTextRequest, Body(prepared.body[:end], dict(prepared.headers)))
