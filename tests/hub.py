"""A stand-in for the Hugging Face hub on this machine: what huggingface_hub asks, no more.

As on the real hub, ``/<repo>/resolve/<revision>/<path>`` tells a file's commit, size and
checksum, and redirects to another host (here another port: the CDN) that gives the bytes and
honours ranges, and that must never see the token.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from magenta_bento.weights.catalog import MUSICCOCA_FILES

REPO_ID = "google/magenta-realtime-2"
COMMIT = "c0ffee" + "0" * 34
RELEASE = "v2.0"
MUSICCOCA_PATHS = tuple(f"resources/musiccoca/{name}" for name in MUSICCOCA_FILES)


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """What the hub holds, how it behaves, and what it was asked.

    Attributes:
      files: The repository's files at ``COMMIT``, known as "main" and ``RELEASE`` too.
      needs_token: Answer 401 to whoever doesn't send it.
      refuse: Answer this status to everything; with ``error_code`` in X-Error-Code.
      cut_after: End transfers after so many bytes, as a network does. 0 for never.
      cuts: How many transfers to cut; later ones get through.
      stall: Don't end a transfer that is cut, keep it waiting.
      broken_cdn: Answer 503 to transfers once the cuts are over.
      damage: Give other bytes than the checksum promises.
    """

    files: dict[str, bytes]
    needs_token: str | None = None
    refuse: int = 0
    error_code: str = ""
    cut_after: int = 0
    cuts: int = 0
    stall: bool = False
    broken_cdn: bool = False
    damage: bool = False
    asked: list[Asked] = field(default_factory=list)
    hub_url: str = ""
    cdn_url: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def transfers(self) -> list[Asked]:
        """The requests that reached the CDN for bytes."""
        return [asked for asked in self.asked if asked.path.startswith("/cdn/")]

    @property
    def transferred(self) -> set[str]:
        return {asked.path.removeprefix("/cdn/") for asked in self.transfers}


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serves a repository's files until the block ends."""
    hub = Hub(dict(files))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, d)) for d in (_resolve, _bytes)]
    hub.hub_url, hub.cdn_url = (f"http://127.0.0.1:{s.server_port}" for s in servers)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.closing.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def repository(checkpoint: bytes | None = None) -> dict[str, bytes]:
    """Files like the real repository's, small: both checkpoints, MusicCoCa, and MLX's."""
    tflite = {
        path: struct.pack("<I", 28) + b"TFL3" + path.encode() * 50
        for path in MUSICCOCA_PATHS
        if path.endswith(".tflite")
    }
    return {
        "README.md": b"# Model card",
        "checkpoints/mrt2_small.safetensors": checkpoint or safetensors({"a": 64}),
        "checkpoints/mrt2_base.safetensors": safetensors({"a": 64, "b": 4096}),
        "resources/musiccoca/spm.model": b"pieces" * 100,
        "resources/spectrostream/decoder.safetensors": safetensors({"mlx": 8}),
        "models/mrt2_small/mrt2_small.mlxfn": b"mlx",
        **tflite,
    }


def safetensors(tensors: dict[str, int]) -> bytes:
    """A safetensors file of one-dimensional float32 tensors, given their lengths."""
    header, at = {}, 0
    for name, length in tensors.items():
        offsets = [at, at + 4 * length]
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": offsets}
        at += 4 * length
    raw = json.dumps(header).encode()
    data = hashlib.shake_256(raw).digest(at)  # not zeros: bytes out of place must show
    return struct.pack("<Q", len(raw)) + raw + data


def lay(root: Path, files: dict[str, bytes]) -> None:
    """Writes files below a folder."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


Answer = Callable[[BaseHTTPRequestHandler, Hub], None]


def _handler(hub: Hub, answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            get = self.headers.get
            hub.asked.append(Asked(self.command, self.path, get("Range"), get("Authorization")))
            answer(self, hub)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


def _reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": "0", **headers}.items():
        request.send_header(name, value)
    request.end_headers()


def _resolve(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    if hub.refuse:
        return _reply(request, hub.refuse, {"X-Error-Code": hub.error_code})
    if hub.needs_token and request.headers["Authorization"] != f"Bearer {hub.needs_token}":
        return _reply(request, 401, {"X-Error-Code": "GatedRepo"})
    prefix = f"/{REPO_ID}/resolve/"
    if not request.path.startswith(prefix):
        return _reply(request, 404, {"X-Error-Code": "RepoNotFound"})
    revision, _, path = request.path.removeprefix(prefix).partition("/")
    if revision not in (COMMIT, "main", RELEASE):
        return _reply(request, 404, {"X-Error-Code": "RevisionNotFound"})
    if path not in hub.files:
        return _reply(request, 404, {"X-Error-Code": "EntryNotFound"})
    content = hub.files[path]
    headers = {
        "X-Repo-Commit": COMMIT,
        "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
        "X-Linked-Size": str(len(content)),
        "Location": f"{hub.cdn_url}/cdn/{path}",
    }
    return _reply(request, 302, headers)


def _bytes(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    if hub.broken_cdn and not hub.cuts:
        return _reply(request, 503, {})
    content = hub.files[request.path.removeprefix("/cdn/")]
    if hub.damage:
        content = content[:-1] + bytes([content[-1] ^ 1])
    total, first, status = len(content), 0, 200
    headers = {}
    if asked := request.headers["Range"]:
        first, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
    content = content[first:]
    _reply(request, status, {**headers, "Content-Length": str(len(content))})
    if not (hub.cuts and 0 < hub.cut_after < len(content)):
        request.wfile.write(content)
        return None
    hub.cuts -= 1
    request.wfile.write(content[: hub.cut_after])
    request.wfile.flush()
    if hub.stall:
        hub.stalled.set()
        hub.closing.wait()
    request.close_connection = True
    return None
