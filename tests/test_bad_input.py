"""What can't be served: each gets a 4xx in the one shape, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from audio_files import by_libsndfile, silent_flac, tone, wav_bytes
from serving import Server, serving

ENCODINGS = ["multipart", "urlencoded", "json"]
ROUTES = ["/generate/text", "/generate/audio", "/generate/blend", "/embed/text", "/embed/audio"]
GENERATE = [route for route in ROUTES if route.startswith("/generate")]
FILE_FIELDS = {
    "/generate/audio": "audio_file",
    "/generate/blend": "audio_files",
    "/embed/audio": "audio_file",
}
PROMPT_FIELDS = {
    "/generate/text": "prompt",
    "/generate/blend": "text_prompts",
    "/embed/text": "prompt",
}
JSON = {"Content-Type": "application/json"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}

Reply = requests.Response


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose settings forbid much."""
    with serving(
        tmp_path_factory.mktemp("limited"),
        fake_model=True,
        MAX_FILE_SIZE_MB="1",
        MAX_DURATION="5",
        ENABLE_METRICS="false",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    return by_libsndfile(path, tone(0.2), 48_000, "WAV", "PCM_16").read_bytes()


@pytest.fixture(scope="module")
def ten_hours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return silent_flac(tmp_path_factory.mktemp("flac") / "a.flac", 10 * 3600).read_bytes()


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After every test: no file left, no error in the log, still healthy."""
    seen = server.log.stat().st_size
    yield
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200
    assert files_in(server.temp) == []
    with server.log.open("rb") as log:
        log.seek(seen)
        new = log.read().decode(errors="replace")
    assert "Traceback" not in new, new
    assert [status for status in statuses_in(new) if status >= 500] == [], new


def statuses_in(log: str) -> list[int]:
    """Those of the access lines."""
    return [int(status) for status in re.findall(r"\] [A-Z]+ \S+ (\d{3}) .* id=", log)]


def test_a_refusal_is_in_the_log_with_its_status(server: Server) -> None:
    """So that the fixture above looks at what is there."""
    name = {"X-Request-ID": "a-refusal-to-look-for"}
    assert post(server, "/generate/text", headers=name).status_code == 400
    deadline = time.monotonic() + 10
    while not (lines := [line for line in server.lines() if name["X-Request-ID"] in line]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert statuses_in("\n".join(lines)) == [400]


def files_in(temp: Path) -> list[Path]:
    """BentoML keeps two empty folders of its own, bentoml-client-* and bentoml-uds-*."""
    return [path for path in temp.rglob("*") if not path.name.startswith("bentoml-")]


def post(server: Server, route: str, **how: Any) -> Reply:
    return requests.post(f"{server.url}{route}", timeout=120, **how)


def in_encoding(encoding: str, fields: dict[str, Any]) -> dict[str, Any]:
    if encoding == "multipart":
        return {"files": [(name, (None, str(value))) for name, value in fields.items()]}
    return {"data" if encoding == "urlencoded" else "json": fields}


def refused(
    reply: Reply, *, field: str | None = None, value: str | None = None, status: int = 400
) -> dict[str, Any]:
    """Checks the shape; returns the body.

    Args:
      field: It must be in the detail, and named by the sentence.
      value: It must be told by the sentence.
    """
    assert reply.status_code == status, reply.text[:500]
    assert reply.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = reply.json()
    assert list(body) == ["error", "type", "detail"]
    assert isinstance(body["error"], str)
    assert isinstance(body["type"], str)
    assert body["error"]
    assert "\n" not in body["error"]
    assert len(reply.content) < 20_000
    for problem in body["detail"]:
        assert set(problem) - {"value"} == {"field", "message"}
        assert all(isinstance(each, str) for each in problem.values())
        assert problem["message"] in body["error"]
    if field is not None:
        assert field in [problem["field"] for problem in body["detail"]]
        assert field in body["error"]
    if value is not None:
        assert value in body["error"]
    return body


def least(route: str, wav: bytes) -> dict[str, Any]:
    """What ``requests`` takes to send the least that a route asks for."""
    if route in PROMPT_FIELDS:
        return {"data": {PROMPT_FIELDS[route]: "funk"}}
    return {"files": [(FILE_FIELDS[route], ("a.wav", wav))], "data": {}}


# Fields

BAD_FIELDS = [
    *(("duration", bad) for bad in ("0", "-1", "nan", "1e9", "inf", "ten", "120.01")),
    *(("format", bad) for bad in ("aac", "mp3 ", "audio/wav")),
    *(("top_k", bad) for bad in ("0", "-1", "1.5", "1025", "many")),
    *(("seed", bad) for bad in ("-1", "4294967296", "1.5", "x")),
    *(("temperature", bad) for bad in ("-0.1", "nan", "inf", "hot")),
    *(("guidance", bad) for bad in ("-1.1", "6.9", "7", "nan", "x")),
    *(("notes_guidance", bad) for bad in ("-1.1", "7")),
    *(("drums_guidance", bad) for bad in ("-1.1", "6.1")),
    *(("drums", bad) for bad in ("true", "loud", "1")),
    *(("notes_mode", bad) for bad in ("free", "true")),
    *(("notes_width", bad) for bad in ("-1", "128", "1.5")),
    *(("style_levels", bad) for bad in ("0", "13")),
]
BAD_CONTROLS = [
    ("notes_guidance", 7, "less than or equal to 6.8"),
    ("drums_guidance", 6.1, "less than or equal to 6"),
    ("drums", "loud", "'auto', 'on' or 'off'"),
    ("drums", True, "must not be true or false"),
    ("notes", [60, 128], "less than 128"),
    ("notes", "60,c", "a valid integer"),
    ("notes", [True], "must not be true or false"),
    ("notes", [0] * 129, "at most 128"),
    ("notes_mode", "free", "'guide' or 'strict'"),
    ("notes_width", 128, "less than 128"),
    ("style_levels", 13, "less than or equal to 12"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bad_field(server: Server, encoding: str, field: str, value: str) -> None:
    fields = {"prompt": "funk", field: value}
    reply = post(server, "/generate/text", **in_encoding(encoding, fields))
    # 1e9 is told as the number that it is.
    refused(reply, field=field, value="1000000000" if value == "1e9" else value)


@pytest.mark.parametrize(("field", "value", "bound"), BAD_CONTROLS, ids=str)
def test_a_bad_control_is_told_with_its_bound(
    server: Server, field: str, value: Any, bound: str
) -> None:
    reply = post(server, "/generate/text", json={"prompt": "funk", field: value})
    body = refused(reply)
    (problem,) = body["detail"]
    assert problem["field"].partition("[")[0] == field
    assert bound in problem["message"]
    assert problem["value"] in body["error"]


@pytest.mark.parametrize(("field", "value", "bound"), BAD_CONTROLS, ids=str)
def test_a_bad_control_in_a_query(server: Server, field: str, value: Any, bound: str) -> None:
    query = {"prompt": "funk", "duration": 0.04, field: value}
    reply = requests.get(f"{server.url}/stream/text", params=query, timeout=60)
    (problem,) = refused(reply)["detail"]
    assert problem["field"].partition("[")[0] == field
    assert problem["value"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("duration", "1e9"), ("format", "aac"), ("top_k", "0"), ("seed", "-1"), ("guidance", "nan")],
)
@pytest.mark.parametrize("route", GENERATE)
def test_a_bad_field_of_every_route(
    server: Server, wav: bytes, route: str, field: str, value: str
) -> None:
    sent = least(route, wav)
    sent["data"][field] = value
    refused(post(server, route, **sent), field=field)


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "NaN", "Infinity", "1e999", "[1]", "{}", '""', "9" * 4000],
    ids=lambda v: v[:9],
)
def test_a_bad_number_in_json(server: Server, value: str) -> None:
    body = f'{{"prompt": "funk", "duration": {value}}}'
    refused(post(server, "/generate/text", data=body, headers=JSON), field="duration")


BLANK = {"empty": "", "spaces": "   ", "newlines": "\n\t\r\n", "no-break space": "\u00a0"}


@pytest.mark.parametrize("prompt", [*BLANK.values(), "x" * 1001], ids=[*BLANK, "1001"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("route", ["/generate/text", "/embed/text"])
def test_a_bad_prompt(server: Server, route: str, encoding: str, prompt: str) -> None:
    reply = post(server, route, **in_encoding(encoding, {"prompt": prompt}))
    refused(reply, field="prompt", value=repr(prompt)[:40])


@pytest.mark.parametrize("prompt", ["   ", "x" * 1001], ids=["spaces", "1001"])
def test_a_bad_prompt_beside_audio(server: Server, wav: bytes, prompt: str) -> None:
    reply = post(
        server, "/generate/audio", files={"audio_file": wav}, data={"prompt": prompt, "duration": 1}
    )
    refused(reply, field="prompt")


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        (["a", ""], "text_prompts[1]"),
        (["  ", "a"], "text_prompts[0]"),
        (["a", "x" * 1001], "text_prompts[1]"),
        (["a", None], "text_prompts[1]"),
        (["a", ["b"]], "text_prompts[1]"),
        ("a,,b", "text_prompts[1]"),
        (",", "text_prompts[0]"),
        (["a"] * 17, "text_prompts"),
        ({"a": 1}, "text_prompts"),
    ],
    ids=str,
)
def test_a_bad_prompt_in_a_blend(server: Server, prompts: Any, field: str) -> None:
    refused(post(server, "/generate/blend", json={"text_prompts": prompts}), field=field)


@pytest.mark.parametrize("prompts", [[], "", "[]", None], ids=repr)
def test_a_blend_of_nothing(server: Server, prompts: Any) -> None:
    body = refused(post(server, "/generate/blend", json={"text_prompts": prompts}))
    assert "text_prompts or audio_files" in body["error"]


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_sent(server: Server, route: str) -> None:
    refused(post(server, route))


@pytest.mark.parametrize("value", [808, True, ["a"], {"a": "b"}], ids=repr)
def test_a_prompt_that_is_no_text(server: Server, value: Any) -> None:
    refused(post(server, "/embed/text", json={"prompt": value}), field="prompt")


@pytest.mark.parametrize("value", ["maybe", "2"])
def test_a_switch_that_is_neither_on_nor_off(server: Server, value: str) -> None:
    fields = {"prompt": "funk", "use_mapper": value}
    refused(post(server, "/embed/text", data=fields), field="use_mapper", value=value)


def test_every_fault_is_told(server: Server) -> None:
    body = refused(
        post(server, "/generate/text", data={"prompt": " ", "duration": "0", "key": "C"})
    )
    assert {each["field"] for each in body["detail"]} == {"prompt", "duration", "key"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("route", PROMPT_FIELDS)
def test_an_unknown_field(server: Server, route: str, encoding: str) -> None:
    fields = {PROMPT_FIELDS[route]: "funk", "promt": "typo"}
    refused(post(server, route, **in_encoding(encoding, fields)), field="promt", value="typo")


@pytest.mark.parametrize("route", FILE_FIELDS)
def test_an_unknown_field_beside_a_file(server: Server, wav: bytes, route: str) -> None:
    refused(
        post(server, route, files={FILE_FIELDS[route]: wav}, data={"speed": "2"}), field="speed"
    )


@pytest.mark.parametrize("route", ROUTES)
def test_a_file_that_no_field_takes(server: Server, wav: bytes, route: str) -> None:
    sent = least(route, wav)
    sent["files"] = [*sent.get("files", []), ("music", ("b.wav", wav))]
    body = refused(post(server, route, **sent), field="music")
    assert "is not a field" in body["error"]


def test_a_file_where_text_is_due(server: Server, wav: bytes) -> None:
    refused(post(server, "/generate/text", files={"prompt": ("a.txt", b"funk")}), field="prompt")


@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
def test_a_field_given_twice(server: Server, encoding: str) -> None:
    fields = [("prompt", "funk"), ("prompt", "jazz")]
    how = {"data": fields}
    if encoding == "multipart":
        how = {"files": [(name, (None, value)) for name, value in fields]}
    refused(post(server, "/generate/text", **how), field="prompt", value="2 times")


# Weights

BAD_WEIGHTS = [
    ("1", "text_weights"),
    ("1,2,3", "text_weights"),
    ("0,0", "text_weights[0]"),
    ("0,1", "text_weights[0]"),
    ("-0.0,1", "text_weights[0]"),
    ("nan,1", "text_weights[0]"),
    ("1,inf", "text_weights[1]"),
    ("1,1e9", "text_weights[1]"),
    ("1,", "text_weights[1]"),
    ("a,b", "text_weights[0]"),
    ("[1, [2]]", "text_weights[1]"),
    ("1,-1", "text_weights and audio_weights"),
    ("1,-2", "text_weights and audio_weights"),
]


@pytest.mark.parametrize(("weights", "field"), BAD_WEIGHTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bad_weights(server: Server, encoding: str, weights: str, field: str) -> None:
    fields = {"text_prompts": "funk,jazz", "text_weights": weights, "duration": 1}
    refused(post(server, "/generate/blend", **in_encoding(encoding, fields)), field=field)


@pytest.mark.parametrize("weights", ["1", "1,2,3", "0,0", "nan,1"])
def test_bad_weights_of_files(server: Server, wav: bytes, weights: str) -> None:
    files = [("audio_files", wav), ("audio_files", wav)]
    body = refused(post(server, "/generate/blend", files=files, data={"audio_weights": weights}))
    assert "audio_weights" in body["error"]


def test_weights_without_prompts(server: Server) -> None:
    fields = {"text_prompts": "funk", "audio_weights": "1"}
    refused(post(server, "/generate/blend", data=fields), field="audio_weights")


@pytest.mark.parametrize("field", ["audio_weight", "text_weight"])
@pytest.mark.parametrize("weight", ["0", "nan", "inf", "much"])
def test_a_bad_weight_beside_audio(server: Server, wav: bytes, field: str, weight: str) -> None:
    data = {"prompt": "funk", field: weight}
    refused(
        post(server, "/generate/audio", files={"audio_file": wav}, data=data),
        field=field,
        value=weight,
    )


def test_weights_beside_audio_whose_sum_is_0(server: Server, wav: bytes) -> None:
    data = {"prompt": "funk", "audio_weight": 1, "text_weight": -1}
    reply = post(server, "/generate/audio", files={"audio_file": wav}, data=data)
    refused(reply, field="audio_weight and text_weight")


# Files


def file_field(route: str, index: int = 0) -> str:
    name = FILE_FIELDS[route]
    return f"{name}[{index}]" if name.endswith("s") else name


@pytest.mark.parametrize("route", FILE_FIELDS)
def test_an_empty_upload(server: Server, route: str) -> None:
    reply = post(server, route, files={FILE_FIELDS[route]: ("a.mp3", b"")})
    assert "empty" in refused(reply, field=file_field(route))["error"]


@pytest.mark.parametrize(
    "data",
    [
        b"this is a text, and it says that it is an MP3. " * 100,
        b"<?xml version='1.0'?><playlist/>",
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"RIFF\0\0\0\0WAVE",
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"ID3\x04\0\0\0\0\0\0",
        b"\0",
    ],
    ids=["text", "xml", "png", "wav header", "flac header", "ogg header", "id3 only", "zero"],
)
@pytest.mark.parametrize("route", FILE_FIELDS)
def test_a_file_that_is_no_audio(server: Server, route: str, data: bytes) -> None:
    reply = post(server, route, files={FILE_FIELDS[route]: ("a.mp3", data)})
    assert refused(reply, field=file_field(route))["type"] == "undecodable_audio"


@pytest.mark.parametrize(
    "sample",
    [wav_bytes(b"\0\0\xc0\x7f" * 100, bits=32, code=3), wav_bytes(b"")],
    ids=["nan", "none"],
)
def test_audio_without_usable_samples(server: Server, sample: bytes) -> None:
    refused(post(server, "/embed/audio", files={"audio_file": sample}), field="audio_file")


@pytest.mark.parametrize("route", FILE_FIELDS)
def test_ten_hours_of_silence(server: Server, ten_hours: bytes, route: str) -> None:
    reply = post(server, route, files={FILE_FIELDS[route]: ("a.flac", ten_hours)})
    refused(reply, field=file_field(route), value="36000 s")


def test_the_faulty_one_of_several_files_is_named(server: Server, wav: bytes) -> None:
    files = [("audio_files", ("a.wav", wav)), ("audio_files", ("b.wav", b"no"))]
    refused(post(server, "/generate/blend", files=files), field="audio_files[1]")


@pytest.mark.parametrize("route", ["/generate/audio", "/embed/audio"])
def test_two_files_where_one_is_due(server: Server, wav: bytes, route: str) -> None:
    files = [("audio_file", ("a.wav", wav)), ("audio_file", ("b.wav", wav))]
    refused(post(server, route, files=files), field="audio_file", value="2 times")


def test_too_many_files(server: Server, wav: bytes) -> None:
    files = [("audio_files", ("a.wav", wav))] * 9
    assert "8" in refused(post(server, "/generate/blend", files=files))["error"]


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another server's URL, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=other.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{other.server_port}/a.wav", asked
    other.shutdown()
    other.server_close()
    thread.join()


@pytest.mark.parametrize("encoding", [*ENCODINGS, "json list"])
@pytest.mark.parametrize("route", FILE_FIELDS)
def test_a_url_is_not_fetched(
    server: Server, elsewhere: tuple[str, list[str]], route: str, encoding: str
) -> None:
    url, asked = elsewhere
    name = FILE_FIELDS[route]
    sent = (
        {"json": {name: [url]}} if encoding == "json list" else in_encoding(encoding, {name: url})
    )
    refused(post(server, route, **sent), field=name, value=url)
    assert asked == []


@pytest.mark.parametrize("path", ["/etc/passwd", "file:///etc/passwd", "data:audio/wav;base64,AA"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_path_is_not_opened(server: Server, encoding: str, path: str) -> None:
    reply = post(server, "/embed/audio", **in_encoding(encoding, {"audio_file": path}))
    refused(reply, field="audio_file", value=path)


def test_a_url_as_a_files_name_is_only_a_name(
    server: Server, wav: bytes, elsewhere: tuple[str, list[str]]
) -> None:
    url, asked = elsewhere
    reply = post(server, "/embed/audio", files={"audio_file": (url, wav)})
    assert reply.json()["filename"] == url
    assert asked == []


# Sizes


def form_with_file(size: int) -> bytes:
    head = 'Content-Disposition: form-data; name="audio_file"; filename="a.wav"'
    return f"--x\r\n{head}\r\n\r\n".encode() + bytes(size) + b"\r\n--x--\r\n"


@pytest.mark.parametrize("size", [1_000_001, 2_500_000, 20_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_is_too_large(limited: Server, size: int, chunked: bool) -> None:
    form = form_with_file(size)
    body = (form[at : at + 65_536] for at in range(0, len(form), 65_536)) if chunked else form
    reply = post(limited, "/embed/audio", data=body, headers=MULTIPART)
    assert "1 MB" in refused(reply, status=413)["error"]
    assert files_in(limited.temp) == []


def test_files_that_are_too_large_together(limited: Server) -> None:
    files = [("audio_files", bytes(600_000))] * 2
    refused(post(limited, "/generate/blend", files=files), status=413)


def test_a_file_of_just_the_allowed_size_is_looked_into(limited: Server) -> None:
    body = refused(post(limited, "/embed/audio", files={"audio_file": bytes(1_000_000)}))
    assert body["type"] == "undecodable_audio"


def talk(server: Server, head: str, body: Callable[[socket.socket], None]) -> bytes:
    """Sends a request by hand; returns the answer's first bytes."""
    to = urlsplit(server.url)
    with socket.create_connection((to.hostname, to.port or 0), timeout=60) as line:
        line.sendall(head.replace("\n", "\r\n").encode())
        body(line)
        return line.recv(65_536)


def test_a_declared_size_is_refused_before_the_body(limited: Server) -> None:
    head = (
        "POST /embed/audio HTTP/1.1\nHost: a\nContent-Type: multipart/form-data; boundary=x\n"
        "Content-Length: 100000000000\n\n"
    )
    assert talk(limited, head, lambda line: None).startswith(b"HTTP/1.1 413 ")


def test_an_endless_body_is_refused_as_it_comes(limited: Server) -> None:
    head = (
        "POST /embed/audio HTTP/1.1\nHost: a\nContent-Type: multipart/form-data; boundary=x\n"
        "Transfer-Encoding: chunked\n\n"
    )

    def three_megabytes(line: socket.socket) -> None:
        first = form_with_file(0).removesuffix(b"\r\n--x--\r\n")
        for chunk in [first, *[bytes(100_000)] * 30]:
            line.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

    assert talk(limited, head, three_megabytes).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("encoding", ["urlencoded", "json"])
def test_a_body_without_files_that_is_too_large(server: Server, encoding: str) -> None:
    sent = in_encoding(encoding, {"prompt": "x" * 1_100_000})
    refused(post(server, "/generate/text", **sent), status=413)


@pytest.mark.parametrize("route", GENERATE)
def test_longer_than_the_setting_allows(limited: Server, wav: bytes, route: str) -> None:
    sent = least(route, wav)
    sent["data"]["duration"] = "5.01"
    body = refused(post(limited, route, **sent), field="duration", value="5.01")
    assert "at most 5 seconds" in body["error"]
    sent["data"]["duration"] = "5"
    assert post(limited, route, **sent).headers["X-Audio-Duration"] == "5.00"


def test_the_setting_is_in_the_api_description(limited: Server) -> None:
    document = requests.get(f"{limited.url}/docs.json", timeout=30).json()
    content = document["paths"]["/generate/text"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["duration"]["maximum"] == 5


def test_metrics_that_are_off_are_not_found(limited: Server) -> None:
    refused(requests.get(f"{limited.url}/metrics", timeout=30), status=404)


# Bodies that are damaged, hostile or of another kind


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"prompt": }',
        b"[1]",
        b'"funk"',
        b"null",
        b"funk",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"\x1f\x8b\x08\0",
        b'{"prompt": "a"} trailing',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bad_json(server: Server, body: bytes) -> None:
    refused(post(server, "/generate/text", data=body, headers=JSON))


# Python's parser gives up at its recursion limit; around it, other code may give up instead.
@pytest.mark.parametrize("depth", [100, 900, *range(950, 1000, 3), 100_000])
@pytest.mark.parametrize("shape", ["list", "object", "list in text"])
def test_deep_json(server: Server, depth: int, shape: str) -> None:
    nested = {
        "list": "[" * depth + "]" * depth,
        "object": '{"a":' * depth + "1" + "}" * depth,
        "list in text": '"' + "[" * depth + "]" * depth + '"',
    }[shape]
    field = "text_prompts" if shape == "list in text" else "prompt"
    route = "/generate/blend" if shape == "list in text" else "/embed/text"
    refused(post(server, route, data=f'{{"{field}": {nested}}}', headers=JSON))


@pytest.mark.parametrize(
    "fields",
    [
        {f"field {i}": 1 for i in range(10_000)},
        {"x" * 900_000: 1},
        {"text_prompts": [""] * 100_000},
        {"text_prompts": ["a"], "text_weights": ["x"] * 100_000},
        {"text_prompts": ["a"], "text_weights": "1" * 900_000},
    ],
    ids=["fields", "name", "prompts", "weights", "number"],
)
def test_an_answer_does_not_grow_with_the_faults(server: Server, fields: dict[str, Any]) -> None:
    refused(post(server, "/generate/blend", data=json.dumps(fields), headers=JSON))


@pytest.mark.parametrize(
    "body",
    [b"prompt=%ff", b"prompt=\xff", b"%ff=a&prompt=b", b"&".join([b"a=b"] * 200)],
    ids=["escaped", "raw", "name", "many"],
)
def test_a_bad_urlencoded_form(server: Server, body: bytes) -> None:
    refused(post(server, "/embed/text", data=body, headers=URLENCODED))


PROMPT_PART = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nfunk'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"funk",
        b"--y--\r\n",
        PROMPT_PART,
        PROMPT_PART + b"\r\n--x",
        PROMPT_PART + b"\r\n" + PROMPT_PART[:30],
        b"--x\r\nContent-Disposition: form-data\r\n\r\nfunk\r\n--x--\r\n",
        b"--x\r\n\r\nfunk\r\n--x--\r\n",
        b"--x\r\nContent Disposition\r\n\r\nfunk\r\n--x--\r\n",
        b"\r\n".join([PROMPT_PART] * 200) + b"\r\n--x--\r\n",
        PROMPT_PART + b"x" * 300_000 + b"\r\n--x--\r\n",
    ],
    ids=[
        *("empty", "no boundary", "another boundary", "no end", "half an end", "cut in a head"),
        *("no name", "no head", "bad head", "many parts", "large part"),
    ],
)
def test_a_bad_multipart_form(server: Server, body: bytes) -> None:
    refused(post(server, "/embed/text", data=body, headers=MULTIPART))


@pytest.mark.parametrize("charset", ["nonsense", "base64", "utf-16", "utf-7", "\0", "idna"])
def test_an_odd_charset_does_no_harm(server: Server, charset: str) -> None:
    kind = b"multipart/form-data; boundary=x; charset=" + charset.encode()
    to = urlsplit(server.url)
    body = PROMPT_PART + b"\r\n--x--\r\n"
    with socket.create_connection((to.hostname, to.port or 0), timeout=60) as line:
        head = b"POST /embed/text HTTP/1.1\r\nHost: a\r\nContent-Type: " + kind
        line.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert line.recv(65_536)[:10] in (b"HTTP/1.1 2", b"HTTP/1.1 4")


def test_invalid_utf_8_in_a_part_does_no_harm(server: Server) -> None:
    body = PROMPT_PART + b"\xff\xfe\r\n--x--\r\n"
    assert post(server, "/embed/text", data=body, headers=MULTIPART).status_code < 500


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nul_bytes_do_no_harm(server: Server, encoding: str) -> None:
    fields = {"prompt": "a\0b", "duration": 0.04, "seed": 1}
    reply = post(server, "/generate/text", **in_encoding(encoding, fields))
    assert reply.headers["Content-Disposition"] == 'attachment; filename="a-b-1.mp3"'


def test_a_form_without_a_boundary(server: Server) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    refused(post(server, "/embed/text", data=PROMPT_PART, headers=headers))


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "audio/wav", "json", "/", ";"])
@pytest.mark.parametrize("route", ROUTES)
def test_another_content_type(server: Server, route: str, kind: str) -> None:
    reply = post(server, route, data=b"funk", headers={"Content-Type": kind})
    # Nothing before the ";" is no type at all, which means JSON, and this isn't.
    refused(reply, status=400 if kind == ";" else 415)


# Routes


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("route", ROUTES)
def test_another_method(server: Server, route: str, method: str) -> None:
    refused(requests.request(method, f"{server.url}{route}", timeout=30), status=405)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS"])
@pytest.mark.parametrize("route", ["/stream/text", "/stream/blend"])
def test_other_methods_of_a_route_with_two(server: Server, route: str, method: str) -> None:
    query = {"prompt": "funk", "duration": 0}
    answer = requests.request(method, f"{server.url}{route}", params=query, timeout=30)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("route", ["/health", "/docs", "/redoc", "/docs.json"])
def test_posting_to_a_page(server: Server, route: str) -> None:
    refused(post(server, route), status=405)


@pytest.mark.parametrize(
    "path",
    [
        *("/generate", "/generate/video", "/embed", "/api", "/%00", "/%ff", "//generate/text"),
        *("/docs-assets/", "/docs-assets/none.js", "/docs-assets/%2e%2e/%2e%2e/__init__.py"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_route(server: Server, method: str, path: str) -> None:
    reply = requests.request(method, f"{server.url}{path}", timeout=30)
    # The folder of the pages' files is there, and is not to be posted to.
    posted_to_assets = method == "POST" and "docs-assets" in path
    refused(reply, status=405 if posted_to_assets else 404)
