"""Traces of a real server, as a collector gets them."""

from __future__ import annotations

import gzip
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from audio_files import by_libsndfile, tone
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from serving import Server, serving
from websockets.sync.client import connect

from magenta_bento import tracing

KEY = "alice-has-a-long-key-0123456789"
HEADERS = {"X-API-Key": KEY}
EXPORT_EVERY_MS = 100
PATIENCE_S = 30.0
STOP_S = 15.0
TOLERANCE_NS = 20_000_000  # between what two clocks say
PARTS = ["admission", "embed", "encode", "generate", "queue"]


@dataclass
class Collector:
    """Takes traces by OTLP over HTTP.

    Attributes:
      url: For OTEL_EXPORTER_OTLP_ENDPOINT.
      close: Makes it unreachable.
      bodies: What was sent to it.
    """

    url: str
    close: Callable[[], None]
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[Span]:
        return [
            span
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, str]]:
        """The attributes of what the spans are of."""
        return [
            {each.key: each.value.string_value for each in resource.resource.attributes}
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        ]


@dataclass
class Trace:
    """A request's own span, and those below it by name."""

    root: Span
    parts: dict[str, Span]


def attributes(span: Span) -> dict[str, object]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.bodies.append(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()

        def close() -> None:
            listening.shutdown()
            listening.server_close()
            thread.join()

        collector = Collector(f"http://127.0.0.1:{listening.server_port}", close)
        try:
            yield collector
        finally:
            close()


@dataclass
class Traced:
    """A server, and the collector of its traces."""

    server: Server
    collector: Collector

    def trace(self, request_id: str, parts: list[str]) -> Trace:
        """What was made of a request: exactly these parts, all of them below it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            spans = self.collector.spans()
            roots = [each for each in spans if attributes(each).get("request.id") == request_id]
            below = [each for each in spans if roots and each.trace_id == roots[0].trace_id]
            names = sorted(each.name for each in below if each not in roots)
            if len(roots) == 1 and names == parts:
                break
            assert time.monotonic() < deadline, (request_id, len(roots), names)
            time.sleep(0.05)
        (root,) = roots
        assert root.kind == Span.SPAN_KIND_SERVER
        found = {each.name: each for each in below if each is not root and each != root}
        assert all(each.parent_span_id == root.span_id for each in found.values())
        return Trace(root, found)


@pytest.fixture(name="traced", scope="module")
def _traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with collecting() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_EVERY_MS),
            "MAX_STREAMS": "1",
            "LOG_FORMAT": "json",
            "ENABLE_AUTH": "true",
            "API_KEYS": f"alice:{KEY}",
        }
        with serving(tmp_path_factory.mktemp("traced"), fake_model=True, **settings) as server:
            yield Traced(server, collector)


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def assert_sensible(trace: Trace, audio_s: float) -> None:
    """Each part has its place in the request, and took its share of it."""
    root, parts = trace.root, trace.parts
    for part in parts.values():
        assert part.start_time_unix_nano >= root.start_time_unix_nano - TOLERANCE_NS
        assert part.end_time_unix_nano <= root.end_time_unix_nano + TOLERANCE_NS
        assert part.end_time_unix_nano >= part.start_time_unix_nano
    ordered = [parts[name] for name in ("admission", "embed", "queue", "generate")]
    for before, after in itertools.pairwise(ordered):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + TOLERANCE_NS
    assert abs(parts["queue"].end_time_unix_nano - parts["generate"].start_time_unix_nano) < 1e6
    assert parts["encode"].start_time_unix_nano > parts["generate"].start_time_unix_nano
    assert 0 < seconds(parts["generate"]) < seconds(root)
    assert attributes(parts["generate"])["audio_seconds"] == pytest.approx(audio_s)


def test_a_file_is_one_trace(traced: Traced) -> None:
    began = time.time()
    answer = requests.post(
        f"{traced.server.url}/generate/text",
        data={"prompt": "funk", "duration": "2"},
        headers=HEADERS,
        timeout=60,
    )
    took_s = time.time() - began
    assert answer.status_code == 200
    trace = traced.trace(answer.headers["X-Request-ID"], PARTS)
    assert_sensible(trace, 2.0)
    assert trace.root.name == "POST /generate/text"
    assert not trace.root.parent_span_id
    assert abs(trace.root.start_time_unix_nano / 1e9 - began) < 5
    assert seconds(trace.root) <= took_s
    told = attributes(trace.root)
    assert (told["http.method"], told["http.status_code"]) == ("POST", 200)


def test_an_upload_is_one_trace(traced: Traced, tmp_path: Path) -> None:
    file = by_libsndfile(tmp_path / "tone.wav", tone(2), 48_000, "WAV", "PCM_16")
    answer = requests.post(
        f"{traced.server.url}/generate/audio",
        files={"audio_file": file.read_bytes()},
        data={"duration": "1"},
        headers=HEADERS,
        timeout=60,
    )
    assert answer.status_code == 200
    assert_sensible(traced.trace(answer.headers["X-Request-ID"], PARTS), 1.0)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stream_is_one_trace_however_many_chunks_it_has(traced: Traced, method: str) -> None:
    fields = {"prompt": "funk", "duration": "8", "format": "pcm"}
    given = {"params": {**fields, "key": KEY}} if method == "GET" else {"data": fields}
    url = f"{traced.server.url}/stream/text"
    with requests.request(
        method, url, headers={} if method == "GET" else HEADERS, stream=True, timeout=60, **given
    ) as answer:
        assert answer.status_code == 200
        chunks = sum(1 for _ in answer.iter_content(None))
    assert chunks > 10
    trace = traced.trace(answer.headers["X-Request-ID"], PARTS)
    assert_sensible(trace, 8.0)
    assert trace.root.name == f"{method} /stream/text"


def test_a_live_session_has_no_span_a_message(traced: Traced) -> None:
    request_id = secrets.token_hex(8)
    url = f"{traced.server.url.replace('http', 'ws')}/ws/jam?key={KEY}"
    with connect(url, additional_headers={"X-Request-ID": request_id}) as jam:
        jam.send(json.dumps({"type": "start", "prompts": [{"text": "funk"}]}))
        for _ in range(8):
            jam.recv(timeout=30)
    traced.trace(request_id, ["admission", "generate", "queue"])


def test_a_clients_own_trace_is_continued(traced: Traced) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    answer = requests.post(
        f"{traced.server.url}/generate/text",
        data={"prompt": "funk", "duration": "0.2"},
        headers={**HEADERS, "traceparent": f"00-{trace_id}-{span_id}-01"},
        timeout=60,
    )
    trace = traced.trace(answer.headers["X-Request-ID"], PARTS)
    assert trace.root.trace_id.hex() == trace_id
    assert trace.root.parent_span_id.hex() == span_id


def test_a_client_may_not_want_its_trace(traced: Traced) -> None:
    """And others' are not lost by it."""
    trace_id = secrets.token_hex(16)
    url = f"{traced.server.url}/embed/text"
    unsampled = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-00"}
    for more in (unsampled, {"traceparent": "00-nonsense-01"}):
        answer = requests.post(url, data={"prompt": "funk"}, headers=HEADERS | more, timeout=60)
        assert answer.status_code == 200
    traced.trace(answer.headers["X-Request-ID"], ["admission"])
    assert trace_id not in {span.trace_id.hex() for span in traced.collector.spans()}


def test_a_refusal_is_told_where_it_happened(traced: Traced) -> None:
    answer = requests.post(f"{traced.server.url}/generate/text", timeout=60)
    assert answer.status_code == 401
    trace = traced.trace(answer.headers["X-Request-ID"], ["admission"])
    assert trace.parts["admission"].status.code == Status.STATUS_CODE_ERROR


def test_the_log_names_the_trace(traced: Traced) -> None:
    headers = {**HEADERS, "X-Request-ID": "to-be-found"}
    data = {"prompt": "funk"}
    requests.post(f"{traced.server.url}/embed/text", data=data, headers=headers, timeout=60)
    trace = traced.trace("to-be-found", ["admission"])
    written = [json.loads(line) for line in traced.server.lines() if line.startswith("{")]
    (line,) = (each for each in written if each.get("request_id") == "to-be-found")
    assert line["trace_id"] == trace.root.trace_id.hex()
    assert line["span_id"] == trace.root.span_id.hex()


def test_the_spans_say_whose_they_are(traced: Traced) -> None:
    (told,) = {
        (each["service.name"], each["service.version"]) for each in traced.collector.resources()
    }
    assert told == ("magenta-bento", tracing.__version__)


def test_no_span_holds_a_key_a_query_or_a_prompt(traced: Traced, tmp_path: Path) -> None:
    url = traced.server.url
    wav = by_libsndfile(tmp_path / "theremin.wav", tone(1), 48_000, "WAV", "PCM_16").read_bytes()
    asked = {"prompt": "kazoo", "duration": "0.2"}
    answers = [
        requests.post(f"{url}/generate/text", data=asked, headers=HEADERS, timeout=60),
        requests.post(f"{url}/generate/text?key={KEY}", data=asked, timeout=60),
        requests.get(f"{url}/stream/text", params={**asked, "key": KEY}, timeout=60),
        requests.get(f"{url}/stream/text", params={**asked, "key": "ukulele"}, timeout=60),
        requests.get(
            f"{url}/stream/text", params={"prompt": "kazoo" * 999, "key": KEY}, timeout=60
        ),
        requests.get(f"{url}/stream/blend?text_prompts=kazoo&text_weights=0&key={KEY}", timeout=60),
        requests.get(f"{url}/docs?kazoo", timeout=60),
        requests.post(f"{url}/nothing?kazoo", headers=HEADERS, timeout=60),
        requests.post(
            f"{url}/generate/audio",
            files={"audio_file": ("theremin.wav", wav)},
            data=asked,
            headers=HEADERS,
            timeout=60,
        ),
        requests.post(
            f"{url}/generate/audio",
            files={"audio_file": ("theremin.wav", b"kazoo")},
            headers=HEADERS,
            timeout=60,
        ),
        requests.post(f"{url}/embed/text", data=asked, headers=HEADERS, timeout=60),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 401, 200, 401, 400, 400, 200, 404, 200, 400, 400]
    socket = f"{url.replace('http', 'ws')}/ws/jam?key={KEY}&kazoo"
    with connect(socket, additional_headers={"X-Request-ID": "the-last"}) as jam:
        jam.send(json.dumps({"type": "start", "prompts": [{"text": "kazoo"}]}))
        while not isinstance(jam.recv(timeout=30), bytes):
            pass
    traced.trace("the-last", ["admission", "generate", "queue"])
    for answer in answers:
        request_id = answer.headers["X-Request-ID"]
        assert any(
            attributes(span).get("request.id") == request_id for span in traced.collector.spans()
        )
    sent = b"".join(traced.collector.bodies)
    assert b"/stream/text" in sent
    for secret in (KEY, "kazoo", "theremin", "ukulele"):
        assert secret.encode() not in sent


def test_without_a_collector_nothing_is_recorded() -> None:
    for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_SERVICE_NAME": "music"}):
        assert tracing.configure(environ) is None
    with tracing.tracer.start_as_current_span("admission") as span:
        assert not span.is_recording()
        assert not span.get_span_context().trace_flags.sampled
        tracing.record("encode", 1.0, 2.0)
        tracing.describe_request("id", "/path")


def test_a_collector_that_is_gone_disturbs_nobody(traced: Traced) -> None:
    """The last test: neither requests nor the end of the server wait for it."""
    url = f"{traced.server.url}/embed/text"

    def twenty_requests_s() -> float:
        began = time.monotonic()
        for _ in range(20):
            answer = requests.post(url, data={"prompt": "funk"}, headers=HEADERS, timeout=60)
            assert answer.status_code == 200
        return time.monotonic() - began

    before_s = twenty_requests_s()
    traced.collector.close()
    assert twenty_requests_s() < 20 * before_s  # an exporter tries again for seconds
    time.sleep(3 * EXPORT_EVERY_MS / 1000)
    began = time.monotonic()
    assert traced.server.stop() == 0
    assert time.monotonic() - began < STOP_S
    for line in traced.server.lines():
        if "127.0.0.1" in line and "OTLP" in line:
            json.loads(line)
