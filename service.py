"""Magenta RealTime 2 as a service: text, audio or a blend of both in, music out.

This is the product's front page: one method a route. What a method does reads top to bottom:
prompts become a style, the style a stream, the stream a file or bytes that leave as they come.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magenta_bento import logs, process, tracing
from magenta_bento.config import Settings
from magenta_bento.errors import MagentaBentoError
from magenta_bento.metrics import Metrics
from magenta_bento.runtime import Runtime
from magenta_bento.style import Style
from magenta_bento.web import cors, openapi, pages, sockets, untimed
from magenta_bento.web.access_log import AccessLogMiddleware
from magenta_bento.web.admission import AdmissionMiddleware
from magenta_bento.web.endpoint import Call, endpoint
from magenta_bento.web.generation import MusicGenerator
from magenta_bento.web.middleware import OneErrorShape
from magenta_bento.web.progress import Progress
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
from magenta_bento.web.streaming import STALL_S
from magenta_bento.web.tcp_timeout import set_tcp_user_timeout
from magenta_bento.weights.catalog import choose
from magenta_bento.weights.packed import packed_model

SETTINGS = Settings.from_env()
NO_TIMEOUT_S = 7 * 24 * 3600  # for those in front who read it; web.untimed takes it out here

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
    """GET, but not HEAD, for an API of BentoML's, which only ever routes POST."""

    async def serve(request: Request) -> Response:
        answer: Response = await getattr(bentoml.get_current_service(), api).local(request=request)
        return answer

    route = Route(path, serve, methods=["GET"])
    route.methods = {"GET"}  # the head of music can't be had without the music
    return route


def _runtime() -> Runtime:
    runtime: Runtime = bentoml.get_current_service().runtime
    return runtime


PROGRESS = Progress()
PAGES = pages.make_app(
    runtime=_runtime,
    openapi=lambda: openapi.document(_service().openapi_spec.asdict(), SETTINGS),
    progress=PROGRESS,
    with_metrics=SETTINGS.enable_metrics,
    beside=[
        _get("/stream/text", "stream_text"),
        _get("/stream/blend", "stream_blend"),
        *sockets.routes(_runtime),
    ],
)


@bentoml.service(
    name="magenta-bento",
    # For a distribution that it knows BentoML adds a compiler and git; all packages are wheels.
    image=bentoml.images.Image(base_image="python:3.11-slim-bookworm", distro="none"),
    # What BentoCloud starts it on. Where there is no GPU BentoML goes on without a word.
    resources={"gpu": 1, "gpu_type": "nvidia-l4"},
    traffic={"timeout": NO_TIMEOUT_S},
    # BentoML would count by path, whatever path a client makes up, without a bound.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},  # web.access_log's line tells more
)
@bentoml.asgi_app(PAGES, path="/")
class MagentaBento:
    """Music from text, from audio, or from a blend of both."""

    if _PACKED := packed_model(SETTINGS.magenta_model):
        packed = _PACKED

    def __init__(self) -> None:
        self.settings = SETTINGS
        logs.configure(self.settings.log_level, self.settings.log_format)
        try:
            files = choose(self.settings)
            self.runtime = Runtime(self.settings, files, Metrics(), on_death=process.fail)
        except MagentaBentoError as error:
            process.fail(error, while_loading=True)
            raise
        self.runtime.start()
        self._generator = MusicGenerator(self.runtime)
        process.before_sigterm(lambda: threading.Thread(target=self.runtime.shut_down).start())
        process.end_with_supervisor()
        process.shorten_switch_interval()
        set_tcp_user_timeout(STALL_S)

    async def __is_ready__(self) -> bool:
        return await self.runtime.ready()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def shut_down(self) -> None:
        await asyncio.to_thread(self.runtime.shut_down)

    @endpoint("/generate/text", TextRequest, returns=AudioFile)
    async def generate_text(self, request: TextRequest, call: Call) -> Response:
        """Music from a text prompt."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_text(request), call
        )

    @endpoint("/generate/audio", AudioRequest, returns=AudioFile)
    async def generate_audio(self, request: AudioRequest, call: Call) -> Response:
        """Music in the style of an audio file, with a text prompt mixed in if there is one."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_audio(request), call
        )

    @endpoint("/generate/blend", BlendRequest, returns=AudioFile)
    async def generate_blend(self, request: BlendRequest, call: Call) -> Response:
        """Music from several text and audio prompts, each with its weight."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_blend(request), call
        )

    @endpoint("/stream/text", StreamTextRequest, returns=AudioBytes, streams=True)
    async def stream_text(self, request: StreamTextRequest, call: Call) -> Response:
        """Music from a text prompt, sent while it is made."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_text(request), call
        )

    @endpoint("/stream/audio", StreamAudioRequest, returns=AudioBytes, streams=True)
    async def stream_audio(self, request: StreamAudioRequest, call: Call) -> Response:
        """Music in the style of an audio file, sent while it is made."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_audio(request), call
        )

    @endpoint("/stream/blend", StreamBlendRequest, returns=AudioBytes, streams=True)
    async def stream_blend(self, request: StreamBlendRequest, call: Call) -> Response:
        """Music from several weighted prompts, sent while it is made."""
        await self._generator.check(request, call)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_blend(request), call
        )

    @endpoint("/prompts/audio", EmbedAudioRequest, returns=Shelved)
    async def shelve_audio(self, request: EmbedAudioRequest, call: Call) -> Response:
        """Keeps an audio prompt for a day, under an id that /ws/jam takes."""
        (upload,) = request.uploads("audio_file")
        prompter = self.runtime.loaded.prompter
        style = await prompter.audio(upload.file, "audio_file")
        audio_id = prompter.store_audio_prompt(style.embedding)
        return JSONResponse({"audio_id": audio_id, "filename": upload.filename})

    @endpoint("/embed/text", EmbedTextRequest, returns=Embedded)
    async def embed_text(self, request: EmbedTextRequest, call: Call) -> Response:
        """The style embedding of a text prompt, and its tokens."""
        prompter = self.runtime.loaded.prompter
        style = await prompter.text(request.prompt, use_mapper=request.use_mapper)
        return _embedded(style, prompt=request.prompt)

    @endpoint("/embed/audio", EmbedAudioRequest, returns=Embedded)
    async def embed_audio(self, request: EmbedAudioRequest, call: Call) -> Response:
        """The style embedding of an audio file, and its tokens."""
        (upload,) = request.uploads("audio_file")
        style = await self.runtime.loaded.prompter.audio(upload.file, "audio_file")
        return _embedded(style, filename=upload.filename)


def _embedded(style: Style, **source: str) -> Response:
    body = {
        **source,
        "embedding": style.embedding.tolist(),
        "shape": list(style.embedding.shape),
        "tokens": style.tokens.tolist(),
    }
    return JSONResponse(body)


def _service() -> Any:
    """What BentoML's decorator has made of the class, which type checkers don't see."""
    return MagentaBento


untimed.install()
os.environ["FORWARDED_ALLOW_IPS"] = ""  # else uvicorn believes all on this machine; access decides
tracing.configure()
# From the outermost to the innermost.
_service().add_asgi_middleware(AccessLogMiddleware, runtime=_runtime)
_service().add_asgi_middleware(OneErrorShape)
if SETTINGS.cors_origins:
    _service().add_asgi_middleware(CORSMiddleware, **cors.options(SETTINGS.cors_origins))
_service().add_asgi_middleware(AdmissionMiddleware, runtime=_runtime, progress=PROGRESS)
