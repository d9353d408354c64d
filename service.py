"""Magenta RealTime 2 as a service: text, audio or a blend of both in, music out.

One method a route of ``web.routes``, which says what each does. A method reads top to bottom:
prompts become a style, the style a stream, the stream a file or bytes that leave as they come.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import bentoml
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from magenta_bento import logs, process, tracing
from magenta_bento.config import Settings
from magenta_bento.errors import MagentaBentoError
from magenta_bento.metrics import Metrics
from magenta_bento.runtime import Runtime
from magenta_bento.web import headers, openapi, pages, routes, websocket_routes
from magenta_bento.web.access_log import AccessLogMiddleware
from magenta_bento.web.admission import AdmissionMiddleware
from magenta_bento.web.context import RequestContext
from magenta_bento.web.endpoint import disable_bentoml_timeout, endpoint
from magenta_bento.web.error_middleware import ErrorShapeMiddleware
from magenta_bento.web.generation import MusicGenerator
from magenta_bento.web.request_models import (
    AudioRequest,
    BlendRequest,
    EmbedAudioRequest,
    EmbedTextRequest,
    StreamAudioRequest,
    StreamBlendRequest,
    StreamTextRequest,
    TextRequest,
)
from magenta_bento.web.request_status import Progress
from magenta_bento.web.response_models import (
    AudioEmbedding,
    StoredAudioPrompt,
    TextEmbedding,
    embedding_fields,
)
from magenta_bento.web.responses import json_response
from magenta_bento.web.streaming import STALL_S
from magenta_bento.web.tcp_timeout import set_tcp_user_timeout
from magenta_bento.weights.catalog import choose
from magenta_bento.weights.packed import packed_model

SETTINGS = Settings.from_env()
# BentoCloud's proxy reads this timeout; in the server itself disable_bentoml_timeout removes it.
NO_TIMEOUT_S = 7 * 24 * 3600


def _by_query(route: routes.Route) -> Route:
    """GET for a route of the API."""

    # bentoml: it only ever routes POST, and its methods take the request where forms are parsed.
    async def serve(request: Request) -> Response:
        method = getattr(bentoml.get_current_service(), route.operation)
        answer: Response = await method.local(request=request)
        return answer

    served = Route(route.path, serve, methods=["GET"])
    served.methods = {"GET"}  # Starlette adds HEAD by itself
    return served


def _runtime() -> Runtime:
    runtime: Runtime = bentoml.get_current_service().runtime
    return runtime


PROGRESS = Progress()
PAGES = pages.make_app(
    runtime=_runtime,
    openapi=lambda: openapi.document(SETTINGS),
    progress=PROGRESS,
    with_metrics=SETTINGS.enable_metrics,
    other_routes=[
        *(_by_query(route) for route in routes.ROUTES if route.takes_query),
        *websocket_routes.routes(_runtime),
    ],
)


@bentoml.service(
    name="magenta-bento",
    # bentoml: for a distribution that it knows it adds a compiler and git; all packages are wheels.
    image=bentoml.images.Image(base_image="python:3.11-slim-bookworm", distro="none"),
    # What BentoCloud starts it on. Where there is no GPU BentoML goes on without a word.
    resources={"gpu": 1, "gpu_type": "nvidia-l4"},
    traffic={"timeout": NO_TIMEOUT_S},
    # bentoml: it would count by path, whatever path a client makes up, without a bound.
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

    @endpoint(routes.GENERATE_TEXT)
    async def generate_text(self, request: TextRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_text(request), context
        )

    @endpoint(routes.GENERATE_AUDIO)
    async def generate_audio(self, request: AudioRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_audio(request), context
        )

    @endpoint(routes.GENERATE_BLEND)
    async def generate_blend(self, request: BlendRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_file(
            request, await self._generator.embed_blend(request), context
        )

    @endpoint(routes.STREAM_TEXT)
    async def stream_text(self, request: StreamTextRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_text(request), context
        )

    @endpoint(routes.STREAM_AUDIO)
    async def stream_audio(self, request: StreamAudioRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_audio(request), context
        )

    @endpoint(routes.STREAM_BLEND)
    async def stream_blend(self, request: StreamBlendRequest, context: RequestContext) -> Response:
        await self._generator.check(request, context)
        return await self._generator.respond_with_stream(
            request, await self._generator.embed_blend(request), context
        )

    @endpoint(routes.STORE_AUDIO_PROMPT)
    async def shelve_audio(self, request: EmbedAudioRequest, context: RequestContext) -> Response:
        (upload,) = request.uploads("audio_file")
        prompter = self.runtime.loaded.prompter
        style = await prompter.audio(upload.file, "audio_file")
        audio_id = prompter.store_audio_prompt(style.embedding)
        return json_response(StoredAudioPrompt(audio_id=audio_id, filename=upload.filename))

    @endpoint(routes.EMBED_TEXT)
    async def embed_text(self, request: EmbedTextRequest, context: RequestContext) -> Response:
        prompter = self.runtime.loaded.prompter
        style = await prompter.text(request.prompt, use_mapper=request.use_mapper)
        return json_response(TextEmbedding(prompt=request.prompt, **embedding_fields(style)))

    @endpoint(routes.EMBED_AUDIO)
    async def embed_audio(self, request: EmbedAudioRequest, context: RequestContext) -> Response:
        (upload,) = request.uploads("audio_file")
        style = await self.runtime.loaded.prompter.audio(upload.file, "audio_file")
        return json_response(AudioEmbedding(filename=upload.filename, **embedding_fields(style)))


def _service() -> Any:
    """The class as the BentoML service that its decorator makes of it, unseen by type checkers."""
    return MagentaBento


disable_bentoml_timeout()
# bentoml: it starts uvicorn, which would believe the X-Forwarded-For of any proxy on this machine.
# Which proxies are believed is for TRUSTED_PROXIES to say, and access.clients reads the header.
os.environ["FORWARDED_ALLOW_IPS"] = ""
tracing.configure()
# From the outermost to the innermost.
_service().add_asgi_middleware(AccessLogMiddleware, runtime=_runtime)
_service().add_asgi_middleware(ErrorShapeMiddleware)
if SETTINGS.cors_origins:
    _service().add_asgi_middleware(CORSMiddleware, **headers.cors_options(SETTINGS.cors_origins))
_service().add_asgi_middleware(AdmissionMiddleware, runtime=_runtime, progress=PROGRESS)
