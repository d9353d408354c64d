"""Who may pass: keys, limits, origins, sizes, and the order in which they are checked."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from serving import Server, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ALICE = "alice-has-a-long-key-0123456789"
BOB = "bobs-key-is-not-short-0123456789"
KEYS = f"alice:{ALICE},bob:{BOB}"
ASK = {"prompt": "funk", "duration": "0.2", "format": "wav"}
OPEN = ("/health", "/healthz", "/livez", "/readyz", "/docs", "/redoc", "/docs.json", "/")
CLOSED = ("/metrics", "/requests/some-id", "/nothing", "/schema", "/ws/jam")


def header(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


def generate(server: Server, **given: Any) -> requests.Response:
    return requests.post(f"{server.url}/generate/text", data=ASK, timeout=60, **given)


def assert_refused(answer: requests.Response, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == kind
    assert set(body) == {"error", "type", "detail"}
    assert answer.headers["X-Request-ID"]


@pytest.fixture(scope="module", name="guarded")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for keys, and is strict with bodies."""
    settings = {
        "ENABLE_AUTH": "true",
        "API_KEYS": KEYS,
        "MAX_FILE_SIZE_MB": "1",
        "BODY_TIMEOUT_S": "1",
        "CORS_ORIGINS": "https://app.example",
        "LOG_PROMPTS": "true",
        "RATE_LIMIT_PER_HOUR": "1000",
    }
    with serving(tmp_path_factory.mktemp("guarded"), fake_model=True, **settings) as running:
        yield running
    log = running.log.read_text()
    assert ALICE not in log
    assert BOB not in log


# Keys.


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open_needs_no_key(guarded: Server, path: str) -> None:
    assert requests.get(guarded.url + path, timeout=30).status_code == 200


@pytest.mark.parametrize("path", CLOSED)
def test_what_is_not_named_open_is_closed(guarded: Server, path: str) -> None:
    answer = requests.get(guarded.url + path, timeout=30)
    assert_refused(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="magenta-bento"'


@pytest.mark.parametrize(
    "headers",
    [
        header(ALICE),
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer  {ALICE} "},
        {"x-goog-api-key": ALICE},
    ],
)
def test_a_key_opens_wherever_it_is_presented(guarded: Server, headers: dict[str, str]) -> None:
    answer = generate(guarded, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["X-Queue-Position"] == "0"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        header("wrong"),
        header(ALICE[:-1]),
        header(f"alice:{ALICE}"),
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": "Bearer"},
        {**header("wrong"), "Authorization": f"Bearer {ALICE}"},
        header("ключ".encode().decode("latin-1")),
    ],
)
def test_anything_else_does_not(guarded: Server, headers: dict[str, str]) -> None:
    answer = generate(guarded, headers=headers)
    assert_refused(answer, 401, "unauthorized")
    assert ALICE not in answer.text
    assert "wrong" not in answer.text


def test_a_key_in_the_query_opens_get_but_not_post(guarded: Server) -> None:
    query = {**ASK, "key": ALICE}
    answer = requests.get(f"{guarded.url}/stream/text", params=query, timeout=60)
    assert answer.status_code == 200
    answer = requests.post(f"{guarded.url}/generate/text?key={ALICE}", data=ASK, timeout=60)
    assert_refused(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/ws/jam", "/ws/g.v1.GenerativeService.BidiGenerateMusic"])
def test_a_websocket_is_refused_before_the_upgrade(guarded: Server, path: str) -> None:
    url = guarded.url.replace("http", "ws") + path
    for given in ("", "?key=wrong"):
        with pytest.raises(InvalidStatus) as refused, connect(url + given):
            pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["type"] == "unauthorized"
    for given, headers in ((f"?key={ALICE}", {}), ("", {"x-goog-api-key": ALICE})):
        with connect(url + given, additional_headers=headers) as socket_:
            assert socket_.response is not None
            assert socket_.response.headers["X-Request-ID"]


def test_metrics_name_keys_by_their_names_and_no_path_that_a_client_made_up(
    guarded: Server,
) -> None:
    generate(guarded, headers=header(BOB))
    for path in ("/made-up/1", "/made-up/2", "/requests/made-up-3", "/docs-assets/made-up-4"):
        requests.get(guarded.url + path, headers=header(BOB), timeout=30)
    requests.request("BREW", f"{guarded.url}/health", timeout=30)
    exposed = requests.get(f"{guarded.url}/metrics", headers=header(ALICE), timeout=30).text
    assert 'requests_total{key="bob",method="POST",route="/generate/text",status="200"}' in exposed
    assert 'audio_seconds_total{key="bob"}' in exposed
    assert 'refused_total{reason="unauthorized"}' in exposed
    assert 'route="other"' in exposed
    assert not re.search("made-up|BREW", exposed)
    assert ALICE not in exposed
    assert BOB not in exposed


# Sizes and speeds: refused before a key is looked at, or while a body arrives.


def raw(server: Server, head: str, *parts: bytes, pause_s: float = 0) -> tuple[str, float]:
    """Sends a request by hand; returns the answer and the seconds until it ended."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    began = time.monotonic()
    answer = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:
                break
            time.sleep(pause_s)
        while chunk := connection.recv(65536):
            answer += chunk
            if b'"detail":' in answer:
                break
    return answer.decode(errors="replace"), time.monotonic() - began


def head(length: str, key: str = "") -> str:
    return (
        "POST /generate/text HTTP/1.1\nHost: x\nContent-Type: application/x-www-form-urlencoded\n"
        f"{length}\n{f'X-API-Key: {key}' if key else 'X-Nothing: 1'}\n\n"
    )


def test_a_body_declared_too_large_is_refused_unread_whoever_sends_it(guarded: Server) -> None:
    for key in ("", ALICE):
        answer, seconds = raw(guarded, head("Content-Length: 3000000", key))
        assert " 413 " in answer
        assert '"payload_too_large"' in answer
        assert "uploads may have 1 MB together" in answer
        assert seconds < 5


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(guarded: Server) -> None:
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    answer, _ = raw(guarded, head("Transfer-Encoding: chunked", ALICE), *[chunk] * 40)
    assert " 413 " in answer


def test_a_body_that_trickles_is_given_up(guarded: Server) -> None:
    drops = [b"a"] * 40
    answer, seconds = raw(guarded, head("Content-Length: 1000", ALICE), *drops, pause_s=0.1)
    assert " 408 " in answer
    assert '"slow_body"' in answer
    assert seconds < 10


def test_a_body_that_stops_is_given_up(guarded: Server) -> None:
    answer, seconds = raw(guarded, head("Content-Length: 1000", ALICE), b"prompt=f")
    assert " 408 " in answer
    assert 1 <= seconds < 10


def multipart(parts: list[bytes]) -> tuple[str, bytes]:
    boundary = b"magenta"
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return "multipart/form-data; boundary=magenta", body + b"--magenta--\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [b'Content-Disposition: form-data; name="f%d"\r\n\r\n1' % i for i in range(500)],
        [
            b'Content-Disposition: form-data; name="prompt"\r\n'
            + b"".join(b"X-%d: 1\r\n" % i for i in range(5000))
            + b"\r\nfunk"
        ],
        [b'Content-Disposition: form-data; name="prompt"; x="' + b"a" * 500_000 + b'"\r\n\r\nfunk'],
        [
            b'Content-Disposition: form-data; name="audio_file"; filename="a"\r\n\r\n1'
            for _ in range(20)
        ],
    ],
    ids=["many parts", "many headers", "a long header", "many files"],
)
def test_parts_and_their_headers_are_bounded(guarded: Server, parts: list[bytes]) -> None:
    content_type, body = multipart(parts)
    headers = {"Content-Type": content_type, **header(ALICE)}
    url = f"{guarded.url}/generate/text"
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert_refused(answer, 400, "invalid_input")


# Pages of other origins.


def test_cross_origin_requests_need_the_setting(guarded: Server) -> None:
    allowed = {"Origin": "https://app.example", **header(ALICE)}
    answer = generate(guarded, headers=allowed)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "X-Seed" in answer.headers["Access-Control-Expose-Headers"]
    answer = generate(guarded, headers={**allowed, "Origin": "https://evil.example"})
    assert_refused(answer, 403, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in answer.headers
    own = {**allowed, "Origin": guarded.url}
    assert generate(guarded, headers=own).status_code == 200


def test_a_preflight_needs_no_key(guarded: Server) -> None:
    asks = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, x-request-id",
    }
    url = f"{guarded.url}/generate/text"
    answer = requests.options(url, headers=asks, timeout=30)
    assert answer.status_code == 200
    assert "X-API-Key" in answer.headers["Access-Control-Allow-Headers"]
    answer = requests.options(url, headers={**asks, "Origin": "https://evil.example"}, timeout=30)
    assert answer.status_code == 400


def test_a_page_from_elsewhere_opens_no_websocket(guarded: Server) -> None:
    url = f"{guarded.url.replace('http', 'ws')}/ws/jam?key={ALICE}"
    with pytest.raises(InvalidStatus) as refused, connect(url, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    for origin in ("https://app.example", guarded.url):
        with connect(url, origin=origin):
            pass


# Every answer.


@pytest.mark.parametrize(
    "path", ["/health", "/docs", "/nothing", "/metrics", "/ws/jam/schema.json"]
)
def test_every_answer_protects_browsers(guarded: Server, path: str) -> None:
    headers = requests.get(guarded.url + path, timeout=30).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    framers = "frame-ancestors 'self' https://app.example"
    assert headers["Content-Security-Policy"].endswith(framers)
    assert "X-Request-ID" in headers


# Limits.


@pytest.fixture(scope="module", name="limited")
def _limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "ENABLE_AUTH": "true",
        "API_KEYS": ",".join(f"{name}:{name}-{ALICE}" for name in "abcdefgh"),
        "METRICS_WITHOUT_KEY": "true",
        "RATE_LIMIT_PER_MINUTE": "4",
        "RATE_LIMIT_PER_HOUR": "50",
        "RATE_LIMIT_AUDIO_SECONDS_PER_HOUR": "30",
        "MAX_CONCURRENT_PER_CLIENT": "2",
    }
    with serving(tmp_path_factory.mktemp("limited"), fake_model=True, **settings) as running:
        yield running


def of(name: str) -> dict[str, str]:
    return header(f"{name}-{ALICE}")


def test_requests_are_counted_and_the_rest_is_told(limited: Server) -> None:
    for left in (3, 2, 1, 0):
        answer = generate(limited, headers=of("a"))
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == (
            '"minute";q=4;w=60, "hour";q=50;w=3600, "audio";q=30;w=3600;qu="audio-seconds"'
        )
        assert answer.headers["RateLimit"].startswith(f'"minute";r={left};t=')
        assert f'"hour";r={46 + left};t=' in answer.headers["RateLimit"]
    answer = generate(limited, headers=of("a"))
    assert_refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["RateLimit"].startswith('"minute";r=0;t=')
    # Others, and what costs nothing, go on.
    assert generate(limited, headers=of("b")).status_code == 200
    for _ in range(10):
        answer = requests.get(f"{limited.url}/requests/x", headers=of("a"), timeout=30)
        assert answer.status_code == 404
        assert requests.get(f"{limited.url}/metrics", timeout=30).status_code == 200


def test_a_websocket_counts_and_is_refused_like_a_request(limited: Server) -> None:
    url = f"{limited.url.replace('http', 'ws')}/ws/jam"
    for _ in range(4):
        with connect(url, additional_headers=of("c")):
            pass
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=of("c")):
        pass
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["Retry-After"]) >= 1


def test_a_client_has_so_many_places_and_gets_them_back(limited: Server) -> None:
    url = f"{limited.url.replace('http', 'ws')}/ws/jam"
    with connect(url, additional_headers=of("d")), connect(url, additional_headers=of("d")):
        assert_refused(generate(limited, headers=of("d")), 429, "too_many_at_once")
    deadline = time.monotonic() + 30  # until the server has noticed that they are gone
    while (answer := generate(limited, headers=of("d"))).status_code == 429:
        assert answer.json()["type"] == "too_many_at_once"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.status_code == 200


def test_music_is_charged_by_the_second(limited: Server) -> None:
    url = f"{limited.url}/generate/text"
    long = {**ASK, "duration": "20"}
    assert requests.post(url, data=long, headers=of("e"), timeout=60).status_code == 200
    answer = requests.post(url, data=long, headers=of("e"), timeout=60)
    assert_refused(answer, 429, "audio_budget_spent")
    told = "30 seconds of music in an hour are allowed; left: 10, asked for: 20"
    assert answer.json()["error"] == told
    assert int(answer.headers["Retry-After"]) >= 1
    assert '"audio";r=10;t=' in answer.headers["RateLimit"]
    assert generate(limited, headers=of("e")).status_code == 200


def test_a_stream_without_an_end_ends_with_the_budget(limited: Server) -> None:
    query = {"prompt": "endless", "duration": "0", "format": "pcm", "pace": "asap"}
    url = f"{limited.url}/stream/text"
    heard: list[int] = []
    with requests.get(url, params=query, headers=of("f"), stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            heard.extend(map(len, answer.iter_content(1 << 16)))
    assert 20 < sum(heard) / (48_000 * 4) <= 30


def test_a_live_session_is_told_when_its_budget_is_spent(limited: Server) -> None:
    url = f"{limited.url.replace('http', 'ws')}/ws/jam"
    spent = {**ASK, "duration": "29"}
    posted = requests.post(f"{limited.url}/generate/text", data=spent, headers=of("g"), timeout=60)
    assert posted.status_code == 200
    with connect(url, additional_headers=of("g")) as jam:
        jam.send(json.dumps({"type": "start", "prompts": [{"text": "funk"}]}))
        told = json.loads(jam.recv(timeout=30))
    assert (told["type"], told["error_type"]) == ("error", "audio_budget_spent")


def test_who_is_over_the_limit_takes_no_place(limited: Server) -> None:
    """Refused requests don't count as open ones, and nobody else notices them."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: generate(limited, headers=of("h")), range(60)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) <= 4
    health = requests.get(f"{limited.url}/health", timeout=30).json()
    assert health["streams"]["waiting"] == 0
