"""The service's own web layer in this process, on a model that obeys the test.

What leaves here is what a client of the real server gets: the same parsing, making, encoding,
streaming, error shape and web server. Only the model and the prompts' embeddings are fakes.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fake_model import FakeModel, Rig, rig, until
from fake_prompter import FakePrompter
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magenta_bento.config import Settings
from magenta_bento.metrics import Metrics
from magenta_bento.runtime import LoadedModel, Runtime, ServerPhase
from magenta_bento.web import websocket_routes
from magenta_bento.web.access_log import AccessLogMiddleware
from magenta_bento.web.admission import AdmissionMiddleware
from magenta_bento.web.context import RequestContext
from magenta_bento.web.endpoint import endpoint
from magenta_bento.web.error_middleware import ErrorShapeMiddleware
from magenta_bento.web.generation import MusicGenerator
from magenta_bento.web.request_models import EmbedAudioRequest, StreamTextRequest, TextRequest
from magenta_bento.web.request_status import Progress
from magenta_bento.web.routes import EMBED_AUDIO, GENERATE_TEXT, STREAM_TEXT
from magenta_bento.weights.catalog import locate

SMALL_BYTES = 8_192  # of kernel buffers, so that a client that doesn't read is felt soon
LIMIT_S = 30.0
UNLIMITED = {"rate_limit_per_minute": 0, "rate_limit_per_hour": 0}


class Front:
    """The routes that these tests need, published as those of the service are."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.settings = runtime.settings
        self.maker = MusicGenerator(runtime)

    @endpoint(GENERATE_TEXT)
    async def generate(self, request: TextRequest, context: RequestContext) -> Response:
        await self.maker.check(request, context)
        return await self.maker.respond_with_file(
            request, await self.maker.embed_text(request), context
        )

    @endpoint(STREAM_TEXT)
    async def stream(self, request: StreamTextRequest, context: RequestContext) -> Response:
        await self.maker.check(request, context)
        return await self.maker.respond_with_stream(
            request, await self.maker.embed_text(request), context
        )

    @endpoint(EMBED_AUDIO)
    async def embed(self, request: EmbedAudioRequest, context: RequestContext) -> Response:
        (upload,) = request.uploads("audio_file")
        style = await self.runtime.loaded.prompter.audio(upload.file, "audio_file")
        return JSONResponse({"first": float(style.embedding[0])})

    def routes(self) -> list[Route]:
        def served(api: Any) -> Callable[[Request], Any]:
            async def serve(request: Request) -> Response:
                answer: Response = await api.func(self, request)
                return answer

            return serve

        published: list[Any] = [Front.generate, Front.stream, Front.embed]
        return [Route(api.route, served(api), methods=["POST"]) for api in published]


@dataclass
class Place:
    """A server in this process."""

    url: str
    rig: Rig
    runtime: Runtime
    web: uvicorn.Server

    @property
    def model(self) -> Any:
        return self.rig.model

    async def at_rest(self) -> None:
        """Waits until no stream plays and no connection is served."""
        await self.rig.at_rest()
        await until(lambda: not self.web.server_state.tasks)

    async def ask(self, route: str = "/generate/text", **fields: Any) -> httpx.Response:
        body = {"prompt": "funk", "duration": 1, "seed": 1, "format": "wav", **fields}
        async with httpx.AsyncClient(timeout=LIMIT_S) as client:
            return await client.post(f"{self.url}{route}", json=body)

    def connect(self) -> socket.socket:
        """A socket whose kernel keeps little of what it is sent."""
        ear = socket.socket()
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        ear.settimeout(LIMIT_S)
        ear.connect(("127.0.0.1", int(self.url.rsplit(":", 1)[1])))
        return ear


@contextmanager
def placed(model: FakeModel, **settings: Any) -> Iterator[Place]:
    """A server that is ready; ended, with all its threads, when the context is left."""
    given = Settings(**{**UNLIMITED, **settings})
    with rig(model) as running, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        listening.bind(("127.0.0.1", 0))
        prompter: Any = FakePrompter()
        runtime = Runtime(given, locate("demo", given), Metrics(CollectorRegistry()), _never)
        runtime._loaded = LoadedModel(running.engine, prompter, "cpu", "float32")
        runtime.phase = ServerPhase.READY
        web = uvicorn.Server(uvicorn.Config(_app(runtime), log_config=None, lifespan="off"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not web.started:
                time.sleep(0.001)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield Place(url, running, runtime, web)
        finally:
            web.should_exit = True
            model.gate.set()
            thread.join()


def _app(runtime: Runtime) -> Starlette:
    return Starlette(
        routes=[*Front(runtime).routes(), *websocket_routes.routes(lambda: runtime)],
        middleware=[  # in the service's order
            Middleware(AccessLogMiddleware, runtime=lambda: runtime),
            Middleware(ErrorShapeMiddleware),
            Middleware(AdmissionMiddleware, runtime=lambda: runtime, progress=Progress()),
        ],
    )


def _never(error: BaseException, *, while_loading: bool) -> None:
    raise AssertionError(f"the server died: {error}")


def post(body: bytes, route: str = "/generate/text", kind: str = "application/json") -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {route} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reset(connection: socket.socket) -> None:
    """Closes as a machine that loses its power does: with a reset, and no word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def assert_error(answer: httpx.Response, status: int, kind: str) -> str:
    """The one shape; returns the sentence."""
    told = answer.json()
    assert (answer.status_code, told["type"]) == (status, kind), told
    assert sorted(told) == ["detail", "error", "type"]
    sentence: str = told["error"]
    return sentence
