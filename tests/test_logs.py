"""The log: one object a line where that is asked for, ids on each, and nobody's secrets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from audio_files import by_libsndfile, tone
from serving import Server, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

KEY = "alice-has-a-long-key-0123456789"
WRONG_KEY = "mallory-guesses-0123456789"
HEADERS = {"X-API-Key": KEY}
ASK = {"prompt": "funk", "duration": "0.2", "format": "wav"}
PATIENCE_S = 10.0
MADE_ID = re.compile(r"[0-9a-f]{32}")
# What is written before the worker has read its settings, and what a C++ library writes.
NOT_OURS = re.compile(
    r"serving demo from \S+"
    r"|the demo is a toy; for Magenta's music: magenta-bento models download mrt2_small"
    r"|\S+ \[INFO\] \[cli\] Starting production HTTP BentoServer from .*"
    r"|INFO: Created TensorFlow Lite XNNPACK delegate for CPU\."
)


# Lines, as the package writes them.


def written(script: str) -> list[str]:
    """What a process of its own writes to its standard error."""
    begin = "import logging\nfrom magenta_bento import logs\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + script], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_as_text_a_line_has_a_time_a_level_and_a_message() -> None:
    lines = written(
        "for _ in range(2): logs.configure('INFO')\n"
        "log = logging.getLogger('magenta_bento.some.module')\n"
        "log.info('one %s', 1)\n"
        "log.debug('two')\n"
    )
    (line,) = lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[INFO\] one 1", line)


def test_as_json_a_line_is_an_object_whoever_writes_it() -> None:
    lines = written(
        "logging.basicConfig()\n"
        "for _ in range(2): logs.configure('DEBUG', 'json')\n"
        "logs.request_id.set('my-id')\n"
        "logging.getLogger('magenta_bento').debug('line\\nbreak \\u2028', extra={'status': 200})\n"
        "logging.getLogger('somebody.else').warning('theirs')\n"
        "import warnings; warnings.warn('of age')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('magenta_bento').exception('an error')\n"
    )
    ours, theirs, warning, error = map(json.loads, lines)
    assert list(ours) == ["time", "level", "logger", "message", "status", "request_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", ours.pop("time"))
    assert ours == {
        "level": "DEBUG",
        "logger": "magenta_bento",
        "message": "line\nbreak \u2028",
        "status": 200,
        "request_id": "my-id",
    }
    assert (theirs["logger"], theirs["message"]) == ("somebody.else", "theirs")
    assert theirs["request_id"] == "my-id"
    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert "UserWarning: of age" in warning["message"]
    assert (error["level"], error["request_id"]) == ("ERROR", "my-id")
    assert error["exc_info"].endswith("ZeroDivisionError: division by zero")


def test_bentomls_number_is_not_taken_for_the_requests_id() -> None:
    (line,) = written(
        "logs.configure('INFO', 'json')\n"
        "logging.getLogger('magenta_bento').info('x', extra={'request_id': 42})\n"
    )
    assert "request_id" not in json.loads(line)


# A server that writes JSON, at the level that tells most, and no prompts.


@pytest.fixture(name="quiet", scope="module")
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "MAX_STREAMS": "1",
        "ENABLE_AUTH": "true",
        "API_KEYS": f"alice:{KEY}",
        "RATE_LIMIT_PER_HOUR": "100000",
        "RATE_LIMIT_STORAGE": "redis://:password-of-redis@127.0.0.1:1",
    }
    with serving(tmp_path_factory.mktemp("quiet"), fake_model=True, **settings) as running:
        yield running


def objects(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines() if not NOT_OURS.fullmatch(line)]


def access_line(server: Server, request_id: str) -> dict[str, Any]:
    """The one access line of a request; it is written after its answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [
            each
            for each in objects(server)
            if each["logger"] == "magenta_bento.access" and each.get("request_id") == request_id
        ]
        if found:
            break
        assert time.monotonic() < deadline, f"no access line has {request_id}"
        time.sleep(0.05)
    (line,) = found
    return line


def generate(server: Server, **given: Any) -> requests.Response:
    given.setdefault("data", ASK)
    return requests.post(f"{server.url}/generate/text", timeout=60, **given)


def test_a_generation_is_one_line_that_tells_how_it_went(quiet: Server) -> None:
    answer = generate(quiet, headers=HEADERS)
    line = access_line(quiet, answer.headers["X-Request-ID"])
    assert re.fullmatch(r"\S+T\S+\+00:00", line.pop("time"))
    message = line.pop("message")
    assert message.startswith("POST /generate/text 200 seconds=")
    assert message.endswith(f" id={answer.headers['X-Request-ID']}")
    for name in ("seconds", "generation_seconds", "rtf"):
        assert line.pop(name) > 0
    assert line.pop("queue_seconds") >= 0
    assert line == {
        "level": "INFO",
        "logger": "magenta_bento.access",
        "method": "POST",
        "route": "/generate/text",
        "path": "/generate/text",
        "status": 200,
        "key": "alice",
        "address": "127.0.0.1",
        "outcome": "finished",
        "audio_seconds": 0.2,
        "request_id": answer.headers["X-Request-ID"],
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "route", "level"),
    [
        ("GET", "/health", 200, "/health", "DEBUG"),
        ("GET", "/readyz", 200, "/readyz", "DEBUG"),
        ("GET", "/metrics", 401, "/metrics", "DEBUG"),
        ("GET", "/nothing", 401, "other", "INFO"),
        ("POST", "/embed/text", 401, "/embed/text", "INFO"),
        ("BREW", "/health", 405, "/health", "DEBUG"),
    ],
)
def test_each_request_is_one_line(
    quiet: Server, method: str, path: str, status: int, route: str, level: str
) -> None:
    answer = requests.request(method, quiet.url + path, timeout=30)
    assert answer.status_code == status
    line = access_line(quiet, answer.headers["X-Request-ID"])
    told = (line["method"], line["path"], line["status"], line["route"], line["level"])
    assert told == (method, path, status, route, level)
    assert "outcome" not in line


def test_who_leaves_is_written_down_as_well(quiet: Server) -> None:
    query = {"prompt": "endless", "duration": "0", "format": "pcm"}
    headers = {**HEADERS, "X-Request-ID": "leaves"}
    url = f"{quiet.url}/stream/text"
    with requests.get(url, params=query, headers=headers, stream=True, timeout=60) as answer:
        next(answer.iter_content(100_000))
    line = access_line(quiet, "leaves")
    assert (line["status"], line["outcome"]) == (200, "cancelled")
    assert line["audio_seconds"] > 0
    url = f"{quiet.url}/generate/text"
    slow = {"prompt": "slow", "duration": 100}
    headers = {**HEADERS, "X-Request-ID": "leaves-early"}
    with pytest.raises(requests.ReadTimeout):
        requests.post(url, data=slow, headers=headers, timeout=0.5)
    line = access_line(quiet, "leaves-early")
    assert (line["status"], line["outcome"]) == (499, "cancelled")


def test_a_websocket_is_one_line(quiet: Server) -> None:
    url = f"{quiet.url.replace('http', 'ws')}/ws/jam"
    with connect(url, additional_headers={**HEADERS, "X-Request-ID": "jam"}) as jam:
        jam.send(json.dumps({"type": "start", "prompts": [{"text": "funk"}]}))
        jam.recv(timeout=30)
    line = access_line(quiet, "jam")
    told = (line["method"], line["route"], line["status"], line["key"], line["outcome"])
    assert told == ("WEBSOCKET", "/ws/jam", 101, "alice", "cancelled")
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    line = access_line(quiet, refused.value.response.headers["X-Request-ID"])
    assert (line["method"], line["status"], line["key"]) == ("WEBSOCKET", 401, "")


@pytest.mark.parametrize("given", ["a", "A-z_0.9~:+/=", "f" * 128])
def test_a_fit_id_is_kept(quiet: Server, given: str) -> None:
    answer = generate(quiet, headers={**HEADERS, "X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given
    assert access_line(quiet, given)["status"] == 200


@pytest.mark.parametrize(
    "given",
    [
        *("", "f" * 129, "two words", "a%0ab", 'quoted"', "<b>", "comma,", "{}", "a\tb"),
        *("\xe4\xf6", "ид".encode().decode("latin-1"), "\x1b[31m", "a\x0bb", "a\x85b"),
    ],
)
def test_an_unfit_id_is_replaced(quiet: Server, given: str) -> None:
    """By hand, as clients' libraries refuse to send some of them."""
    host, port = quiet.url.removeprefix("http://").split(":")
    head = f"GET /nothing HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}X-Request-ID: {given}\r\n\r\n".encode("latin-1"))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    status = answer.split(b" ", 2)[1]
    if status == b"400":  # the HTTP library takes no such header at all
        return
    assert status == b"404"
    (told,) = re.findall(rb"(?i)\r\nx-request-id: ([^\r]*)", answer)
    assert MADE_ID.fullmatch(told.decode())
    assert access_line(quiet, told.decode())["status"] == 404


def test_two_requests_have_two_ids(quiet: Server) -> None:
    answers = [requests.get(f"{quiet.url}/docs", timeout=30) for _ in range(3)]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == 3
    assert all(map(MADE_ID.fullmatch, ids))


def test_what_goes_wrong_has_the_id_of_its_request(quiet: Server) -> None:
    """Here, that of the first who asked for what the dead store should have counted."""
    generate(quiet, headers=HEADERS)
    errors = [each for each in objects(quiet) if each["level"] == "ERROR"]
    (error,) = errors
    assert error["message"].startswith("the store of the limits: ConnectionError: ")
    assert access_line(quiet, error["request_id"])["route"] in ("/health", "/generate/text")


def test_no_prompt_key_or_file_name_is_in_the_log(quiet: Server, tmp_path: Path) -> None:
    """Neither where it is right nor where it is wrong, and not at the level that tells most."""
    url = quiet.url
    wav = by_libsndfile(tmp_path / "t.wav", tone(1), 48_000, "WAV", "PCM_16").read_bytes()
    asked = {"prompt": "kazoo", "duration": "0.2"}
    blend = {"text_prompts": ["kazoo", "theremin"], "duration": "0.2"}
    query = {"prompt": "kazoo", "duration": "0.2", "key": KEY}
    file = {"audio_file": ("ukulele.wav", wav)}
    answers = [
        generate(quiet, data=asked, headers=HEADERS),
        generate(quiet, data=None, json=asked, headers=HEADERS),
        generate(quiet, data={**asked, "colour": "kazoo"}, headers=HEADERS),
        generate(quiet, data={"prompt": "kazoo" * 999}, headers=HEADERS),
        generate(quiet, data={**asked, "duration": "kazoo"}, headers=HEADERS),
        generate(quiet, data="kazoo", headers=HEADERS),
        requests.post(f"{url}/generate/blend", data=blend, headers=HEADERS, timeout=60),
        requests.post(f"{url}/embed/text", data={"prompt": "kazoo"}, headers=HEADERS, timeout=60),
        requests.get(f"{url}/stream/text", params=query, timeout=60),
        requests.get(f"{url}/stream/text", params={**query, "key": WRONG_KEY}, timeout=60),
        requests.get(f"{url}/stream/blend", params={**blend, "key": KEY}, timeout=60),
        requests.post(f"{url}/generate/text?key={KEY}&prompt=kazoo", timeout=60),
        requests.get(f"{url}/nothing?{KEY}&kazoo", headers=HEADERS, timeout=60),
        requests.post(f"{url}/generate/audio", files=file, data=asked, headers=HEADERS, timeout=60),
        requests.post(f"{url}/prompts/audio", files=file, headers=HEADERS, timeout=60),
        requests.post(
            f"{url}/embed/audio",
            files={"audio_file": ("ukulele.mp3", b"theremin")},
            headers=HEADERS,
            timeout=60,
        ),
        generate(quiet, headers={"X-API-Key": WRONG_KEY}),
        generate(quiet, headers={"Authorization": f"Bearer {WRONG_KEY}"}),
        generate(quiet, headers={"Authorization": f"Basic {KEY}"}),
        generate(quiet, headers={"x-goog-api-key": KEY, "User-Agent": "kazoo", "Cookie": "kazoo"}),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [
        *(200, 200, 400, 400, 400, 400, 200, 200, 200, 401, 200, 401, 404, 200, 200, 400),
        *(401, 401, 401, 200),
    ]
    lyria = f"{url.replace('http', 'ws')}/ws/x.GenerativeService.BidiGenerateMusic?key={KEY}"
    with connect(lyria) as socket_:
        socket_.send(json.dumps({"clientContent": {"weightedPrompts": [{"text": "kazoo"}]}}))
        socket_.send(json.dumps({"kazoo": "theremin"}))
    with connect(f"{url.replace('http', 'ws')}/ws/jam?key={KEY}") as jam:
        jam.send(json.dumps({"type": "start", "prompts": [{"text": "kazoo"}], "x": "kazoo"}))
        jam.send("kazoo")
        jam.recv(timeout=30)
    for answer in answers:
        access_line(quiet, answer.headers["X-Request-ID"])
    log = quiet.log.read_text()
    for secret in (KEY, WRONG_KEY, "kazoo", "theremin", "ukulele", "password-of-redis"):
        assert secret not in log


def test_every_line_of_the_worker_is_an_object(quiet: Server) -> None:
    """Also what the HTTP library writes; and without a collector none has a trace."""
    host, port = quiet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        connection.recv(1000)
    deadline = time.monotonic() + PATIENCE_S
    while not any(each["logger"] == "uvicorn.error" for each in objects(quiet)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for line in objects(quiet):
        assert {"time", "level", "logger", "message"} <= set(line)
        assert "trace_id" not in line


# A server that writes text, and prompts.


@pytest.fixture(name="talkative", scope="module")
def _talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"LOG_PROMPTS": "true", "MAX_STREAMS": "1", "MAGENTA_MODEL": "demo"}
    with serving(tmp_path_factory.mktemp("talkative"), fake_model=True, **settings) as running:
        yield running


def text_line(server: Server, request_id: str) -> str:
    """The one line that ends with a request's id."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := [line for line in server.lines() if line.endswith(f" id={request_id}")]):
        assert time.monotonic() < deadline, f"no access line has {request_id}"
        time.sleep(0.05)
    (line,) = found
    return line


def test_prompts_are_in_the_access_line_where_they_are_asked_for(talkative: Server) -> None:
    answer = generate(talkative)
    line = text_line(talkative, answer.headers["X-Request-ID"])
    assert re.fullmatch(
        r"\S+ \[INFO\] POST /generate/text 200 seconds=[\d.]+ address='127\.0\.0\.1'"
        r" outcome='finished' queue_seconds=[\d.]+ generation_seconds=[\d.]+ audio_seconds=0\.2"
        r" rtf=[\d.]+ prompt='funk' id=[0-9a-f]{32}",
        line,
    )
    query = {"text_prompts": ["kazoo", "theremin"], "duration": "0.2", "key": KEY}
    answer = requests.get(f"{talkative.url}/stream/blend", params=query, timeout=60)
    line = text_line(talkative, answer.headers["X-Request-ID"])
    assert "prompt='kazoo + theremin'" in line
    assert KEY not in talkative.log.read_text()


FORGED = "2030-01-01T00:00:00+0000 [INFO] POST /generate/text 200 key='root' id=forged"


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028", "\x1b[2K"])
def test_no_client_writes_a_line_of_its_own(talkative: Server, separator: str) -> None:
    before = len(talkative.lines())
    wanted = [
        generate(talkative, data={**ASK, "prompt": f"funk{separator}{FORGED}"}),
        requests.get(f"{talkative.url}/x{separator}{FORGED}", timeout=30),
        requests.get(f"{talkative.url}/requests/x{separator}{FORGED}", timeout=30),
        requests.get(f"{talkative.url}/x?{separator}{FORGED}", timeout=30),
    ]
    for answer in wanted:
        line = text_line(talkative, answer.headers["X-Request-ID"])
        assert "\x1b" not in line
    # Of what splits lines for anybody, not only of line feeds.
    added = talkative.log.read_bytes().decode().splitlines()[before:]
    assert len(added) == len(wanted)
    assert not [line for line in added if line.startswith("2030")]


def test_a_header_of_a_stranger_changes_no_address(talkative: Server) -> None:
    """No proxy is trusted here, not even one on this machine."""
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"):
        answer = requests.get(f"{talkative.url}/x", headers={name: "198.51.100.7"}, timeout=30)
        line = text_line(talkative, answer.headers["X-Request-ID"])
        assert "address='127.0.0.1'" in line, name
