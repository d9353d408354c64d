"""Magenta RealTime 2 as a service: text, audio or a blend of both in, music out.

This is the product's front page: one method a route. What a method does reads top to bottom:
prompts become a style, the style a stream, the stream a file or bytes that leave as they come.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import bentoml
import psutil
from bentoml.validators import ContentType
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magenta_bento import logs
from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.metrics import Metrics
from magenta_bento.runtime import Runtime, ServerPhase
from magenta_bento.style import Embedding
from magenta_bento.web import openapi, pages, sockets
from magenta_bento.web.endpoint import Call, endpoint
from magenta_bento.web.making import Maker
from magenta_bento.web.middleware import OneErrorShape
from magenta_bento.web.requests import (
    AudioRequest,
    BlendRequest,
    EmbedAudioRequest,
    EmbedTextRequest,
    StreamAudioRequest,
    StreamBlendRequest,
    StreamTextRequest,
    TextRequest,
)
from magenta_bento.weights.catalog import choose

SETTINGS = Settings.from_env()
NO_TIMEOUT_S = 7 * 24 * 3600  # BentoML's timeout would cut long generations; ours are bounded
LAST_WORDS_S = 1.0  # for the answers of failed requests to leave before the process does
EXIT_FAILED = 70  # sysexits.h: internal software error

AudioFile = Annotated[Path, ContentType("audio/mpeg")]
AudioBytes = Annotated[bytes, ContentType("audio/mpeg")]


class Embedded(BaseModel):
    """An embedding of a text or of audio."""

    prompt: str | None = None
    filename: str | None = None
    embedding: list[float]
    shape: list[int]
    tokens: list[int]


class Shelved(BaseModel):
    """An uploaded audio prompt that live sessions can name."""

    audio_id: str
    filename: str


def _get(path: str, api: str) -> Route:
    """GET for an API of BentoML's, which only ever routes POST."""

    async def serve(request: Request) -> Response:
        answer: Response = await getattr(bentoml.get_current_service(), api).local(request=request)
        return answer

    return Route(path, serve, methods=["GET"])


def _runtime() -> Runtime:
    runtime: Runtime = bentoml.get_current_service().runtime
    return runtime


PAGES = pages.make_app(
    runtime=_runtime,
    openapi=lambda: openapi.document(_service().openapi_spec.asdict(), SETTINGS),
    beside=[
        _get("/stream/text", "stream_text"),
        _get("/stream/blend", "stream_blend"),
        *sockets.routes(_runtime),
    ],
)


@bentoml.service(
    name="magenta-bento",
    traffic={"timeout": NO_TIMEOUT_S},
    metrics={"enabled": SETTINGS.enable_metrics},
    logging={
        "access": {
            "skip_paths": ["/metrics", "/health", "/livez", "/healthz", "/readyz"],
            # BentoML logs it undecoded, and fails where a client sends anything but UTF-8.
            "request_content_type": False,
        }
    },
)
@bentoml.asgi_app(PAGES, path="/")
class MagentaBento:
    """Music from text, from audio, or from a blend of both."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        logs.configure(self.settings.log_level)
        try:
            files = choose(self.settings)
        except WeightsError as error:
            _exit(error, while_loading=True)
            raise
        self.runtime = Runtime(self.settings, files, Metrics(), on_death=_exit)
        self.runtime.start()
        self._maker = Maker(self.runtime)
        _before_sigterm(lambda: threading.Thread(target=self.runtime.shut_down).start())

    async def __is_ready__(self) -> bool:
        return self.runtime.phase is ServerPhase.READY

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def shut_down(self) -> None:
        await asyncio.to_thread(self.runtime.shut_down)

    @endpoint("/generate/text", TextRequest, returns=AudioFile)
    async def generate_text(self, request: TextRequest, call: Call) -> Response:
        """Music from a text prompt."""
        self._maker.seconds(request)  # refused before anything costs
        return await self._maker.file(request, await self._maker.of_text(request), call)

    @endpoint("/generate/audio", AudioRequest, returns=AudioFile)
    async def generate_audio(self, request: AudioRequest, call: Call) -> Response:
        """Music in the style of an audio file, with a text prompt mixed in if there is one."""
        self._maker.seconds(request)
        return await self._maker.file(request, await self._maker.of_audio(request), call)

    @endpoint("/generate/blend", BlendRequest, returns=AudioFile)
    async def generate_blend(self, request: BlendRequest, call: Call) -> Response:
        """Music from several text and audio prompts, each with its weight."""
        self._maker.seconds(request)
        return await self._maker.file(request, await self._maker.of_blend(request), call)

    @endpoint("/stream/text", StreamTextRequest, returns=AudioBytes, streams=True)
    async def stream_text(self, request: StreamTextRequest, call: Call) -> Response:
        """Music from a text prompt, sent while it is made."""
        self._maker.seconds(request)
        return await self._maker.stream(request, await self._maker.of_text(request), call)

    @endpoint("/stream/audio", StreamAudioRequest, returns=AudioBytes, streams=True)
    async def stream_audio(self, request: StreamAudioRequest, call: Call) -> Response:
        """Music in the style of an audio file, sent while it is made."""
        self._maker.seconds(request)
        return await self._maker.stream(request, await self._maker.of_audio(request), call)

    @endpoint("/stream/blend", StreamBlendRequest, returns=AudioBytes, streams=True)
    async def stream_blend(self, request: StreamBlendRequest, call: Call) -> Response:
        """Music from several weighted prompts, sent while it is made."""
        self._maker.seconds(request)
        return await self._maker.stream(request, await self._maker.of_blend(request), call)

    @endpoint("/prompts/audio", EmbedAudioRequest, returns=Shelved)
    async def shelve_audio(self, request: EmbedAudioRequest, call: Call) -> Response:
        """Keeps an audio prompt for a day, under an id that /ws/jam takes."""
        (upload,) = request.uploads("audio_file")
        prompter = self.runtime.loaded.prompter
        embedding = await prompter.audio(upload.file, "audio_file")
        return JSONResponse({"audio_id": prompter.shelve(embedding), "filename": upload.filename})

    @endpoint("/embed/text", EmbedTextRequest, returns=Embedded)
    async def embed_text(self, request: EmbedTextRequest, call: Call) -> Response:
        """The style embedding of a text prompt, and its tokens."""
        prompter = self.runtime.loaded.prompter
        embedding = await prompter.text(request.prompt, use_mapper=request.use_mapper)
        return await self._embedded(embedding, prompt=request.prompt)

    @endpoint("/embed/audio", EmbedAudioRequest, returns=Embedded)
    async def embed_audio(self, request: EmbedAudioRequest, call: Call) -> Response:
        """The style embedding of an audio file, and its tokens."""
        (upload,) = request.uploads("audio_file")
        embedding = await self.runtime.loaded.prompter.audio(upload.file, "audio_file")
        return await self._embedded(embedding, filename=upload.filename)

    async def _embedded(self, embedding: Embedding, **of: str) -> Response:
        tokens = await self.runtime.loaded.prompter.tokens(embedding)
        body = {
            **of,
            "embedding": embedding.tolist(),
            "shape": list(embedding.shape),
            "tokens": tokens.tolist(),
        }
        return JSONResponse(body)


def _before_sigterm(action: Callable[[], None]) -> None:
    """Adds to what happens on SIGTERM; the server's own handler still runs."""
    if threading.current_thread() is not threading.main_thread():
        return  # in a test's server thread there are no signals to handle
    usual = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        action()
        if callable(usual):
            usual(number, frame)

    signal.signal(signal.SIGTERM, handle)


def _exit(error: BaseException, *, while_loading: bool) -> None:
    """Ends the process, once clients had their answers.

    BentoML starts a worker that ended anew, which mends a model that broke while it served.
    What fails while it loads would fail for ever: then BentoML is ended too.
    """
    parent = psutil.Process().parent()
    if while_loading and parent is not None and "bentoml" in " ".join(parent.cmdline()):
        parent.terminate()
    threading.Timer(LAST_WORDS_S, os._exit, [EXIT_FAILED]).start()


def _service() -> Any:
    """What BentoML's decorator has made of the class, which type checkers don't see."""
    return MagentaBento


_service().add_asgi_middleware(OneErrorShape)
