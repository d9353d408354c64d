"""Magenta RealTime 2 as a service: text, audio or a blend of both in, music out.

This is the product's front page: one method a route. What a generation does reads top to
bottom: prompts become a style, the style a stream, the stream a file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import bentoml
import numpy as np
from bentoml.validators import ContentType
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from magenta_bento import __version__, conditioning, logs
from magenta_bento.audio.encode import encode
from magenta_bento.audio.formats import FRAMES_PER_SECOND, frames_for
from magenta_bento.audio.limits import DecodeLimits
from magenta_bento.audio.tags import Tags
from magenta_bento.config import Settings
from magenta_bento.engine.stream import Pcm, Phase, Stream, StreamSpec
from magenta_bento.errors import InvalidInput
from magenta_bento.metrics import Metrics
from magenta_bento.runtime import DEMO_NOTE, Runtime, ServerPhase
from magenta_bento.style import Embedding, blend
from magenta_bento.web import openapi, pages, uploads
from magenta_bento.web.endpoint import Call, ClientGone, endpoint
from magenta_bento.web.middleware import OneErrorShape
from magenta_bento.web.requests import (
    MAX_SEED,
    AudioRequest,
    BlendRequest,
    EmbedAudioRequest,
    EmbedTextRequest,
    GenerationRequest,
    TextRequest,
    Upload,
)
from magenta_bento.web.responses import Rendered, audio_response
from magenta_bento.weights.catalog import choose

SETTINGS = Settings.from_env()
NO_TIMEOUT_S = 7 * 24 * 3600  # BentoML's timeout would cut long generations; ours are bounded
LAST_WORDS_S = 1.0  # for the answers of failed requests to leave before the process does
EXIT_FAILED = 70  # sysexits.h: internal software error
UPLOAD_THREADS = 2
ENCODE_THREADS = 4

AudioFile = Annotated[Path, ContentType("audio/mpeg")]
T = TypeVar("T")


class Embedded(BaseModel):
    """An embedding of a text or of audio."""

    prompt: str | None = None
    filename: str | None = None
    embedding: list[float]
    shape: list[int]
    tokens: list[int]


PAGES = pages.make_app(
    runtime=lambda: bentoml.get_current_service().runtime,
    openapi=lambda: openapi.document(_service().openapi_spec.asdict(), SETTINGS.max_duration),
)


@bentoml.service(
    name="magenta-bento",
    traffic={"timeout": NO_TIMEOUT_S},
    metrics={"enabled": SETTINGS.enable_metrics},
    logging={"access": {"skip_paths": ["/metrics", "/health", "/livez", "/healthz", "/readyz"]}},
)
@bentoml.asgi_app(PAGES, path="/")
class MagentaBento:
    """Music from text, from audio, or from a blend of both."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        logs.configure(self.settings.log_level)
        self.runtime = Runtime(self.settings, choose(self.settings), Metrics(), on_death=_exit)
        self.runtime.start()
        self._uploads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        self._encodes = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")
        _before_sigterm(lambda: threading.Thread(target=self.runtime.shut_down).start())

    async def __is_ready__(self) -> bool:
        return self.runtime.phase is ServerPhase.READY

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def shut_down(self) -> None:
        await asyncio.to_thread(self.runtime.shut_down)

    @endpoint("/generate/text", TextRequest, returns=AudioFile)
    async def generate_text(self, request: TextRequest, call: Call) -> Response:
        """Music from a text prompt."""
        style = await self._embed_text(request.prompt, use_mapper=True)
        return await self._generate(request, style, request.prompt, call)

    @endpoint("/generate/audio", AudioRequest, returns=AudioFile)
    async def generate_audio(self, request: AudioRequest, call: Call) -> Response:
        """Music in the style of an audio file, with a text prompt mixed in if there is one."""
        self._check_duration(request)
        (upload,) = request.uploads("audio_file")
        parts = [await self._embed_audio(upload, "audio_file")]
        weights = [request.audio_weight]
        if request.prompt is not None:
            parts.append(await self._embed_text(request.prompt, use_mapper=True))
            weights.append(request.text_weight)
        style = blend(parts, weights, "audio_weight and text_weight")
        title = request.prompt or Path(upload.filename).stem
        return await self._generate(request, style, title, call)

    @endpoint("/generate/blend", BlendRequest, returns=AudioFile)
    async def generate_blend(self, request: BlendRequest, call: Call) -> Response:
        """Music from several text and audio prompts, each with its weight."""
        self._check_duration(request)
        texts = [await self._embed_text(text, use_mapper=True) for text in request.text_prompts]
        files = request.uploads("audio_files")
        audio = [
            await self._embed_audio(file, f"audio_files[{index}]")
            for index, file in enumerate(files)
        ]
        weights = [
            *(request.text_weights or [1.0] * len(texts)),
            *(request.audio_weights or [1.0] * len(audio)),
        ]
        style = blend([*texts, *audio], weights, "text_weights and audio_weights")
        names = [*request.text_prompts, *(Path(file.filename).stem for file in files)]
        return await self._generate(request, style, " + ".join(names), call)

    @endpoint("/embed/text", EmbedTextRequest, returns=Embedded)
    async def embed_text(self, request: EmbedTextRequest, call: Call) -> Response:
        """The style embedding of a text prompt, and its tokens."""
        embedding = await self._embed_text(request.prompt, request.use_mapper)
        return await self._embedded(embedding, prompt=request.prompt)

    @endpoint("/embed/audio", EmbedAudioRequest, returns=Embedded)
    async def embed_audio(self, request: EmbedAudioRequest, call: Call) -> Response:
        """The style embedding of an audio file, and its tokens."""
        (upload,) = request.uploads("audio_file")
        embedding = await self._embed_audio(upload, "audio_file")
        return await self._embedded(embedding, filename=upload.filename)

    async def _generate(
        self, request: GenerationRequest, style: Embedding, title: str, call: Call
    ) -> Response:
        self._check_duration(request)
        began = time.monotonic()
        loaded = self.runtime.loaded
        tokens = await self._in(self._encodes, loaded.styles.tokenize, style)
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        frames = frames_for(request.duration)
        spec = StreamSpec(
            conditioning.build(
                tokens,
                conditioning.Controls(conditioning.Guidance(style=request.guidance)),
                request.temperature,
                request.top_k,
            ),
            seed,
            frames,
            client=call.client,
        )
        stream = loaded.engine.submit(spec, asyncio.get_running_loop())
        pcm = await _collect(stream, call)
        data = await self._in(
            self._encodes,
            encode,
            request.format,
            pcm,
            self._tags(title, seed),
            self.settings.mp3_bitrate_kbps,
        )
        return audio_response(
            Rendered(
                data=data,
                format=request.format,
                title=title,
                seed=seed,
                model=self.runtime.files.name,
                audio_s=frames / FRAMES_PER_SECOND,
                took_s=time.monotonic() - began,
            )
        )

    async def _embed_text(self, prompt: str, use_mapper: bool) -> Embedding:
        styles = self.runtime.loaded.styles
        return await self._in(self._encodes, styles.embed_text, prompt, use_mapper)

    async def _embed_audio(self, upload: Upload, field: str) -> Embedding:
        styles = self.runtime.loaded.styles
        limits = DecodeLimits(max_seconds=self.settings.max_upload_seconds)

        def embed() -> Embedding:
            decoded = uploads.decode(upload, field, limits)
            return styles.embed_audio(decoded.samples, decoded.sample_rate_hz, field)

        return await self._in(self._uploads, embed)

    async def _embedded(self, embedding: Embedding, **of: str) -> Response:
        tokens = await self._in(self._encodes, self.runtime.loaded.styles.tokenize, embedding)
        body = {
            **of,
            "embedding": embedding.tolist(),
            "shape": list(embedding.shape),
            "tokens": tokens.tolist(),
        }
        return JSONResponse(body)

    def _check_duration(self, request: GenerationRequest) -> None:
        longest = self.settings.max_duration
        if request.duration > longest:
            raise InvalidInput.field(
                "duration", f"must be at most {longest:g} seconds", request.duration
            )

    def _tags(self, title: str, seed: int) -> Tags:
        demo = f"; {DEMO_NOTE}" if self.runtime.is_demo else ""
        return Tags(
            title=title,
            artist=self.runtime.files.name,
            comment=f"seed {seed}{demo}",
            software=f"magenta-bento {__version__}",
        )

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
        """Runs what blocks off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


async def _collect(stream: Stream, call: Call) -> Pcm:
    """All of a stream, int16 [N, 2].

    Raises:
      ClientGone: The client left; the stream is cancelled.
      ServiceError: The stream failed.
    """

    async def read() -> Sequence[Pcm]:
        return [block async for block in stream.blocks()]

    reading = asyncio.create_task(read())
    leaving = asyncio.create_task(call.gone.wait())
    try:
        await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ClientGone
        blocks = reading.result()
        if stream.phase is not Phase.FINISHED:
            raise ClientGone
        return np.concatenate(blocks)
    finally:
        stream.cancel()
        reading.cancel()
        leaving.cancel()


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


def _exit(error: BaseException) -> None:
    """Ends the process for its supervisor to start anew, once clients had their answers."""
    threading.Timer(LAST_WORDS_S, os._exit, [EXIT_FAILED]).start()


def _service() -> Any:
    """What BentoML's decorator has made of the class, which type checkers don't see."""
    return MagentaBento


_service().add_asgi_middleware(OneErrorShape)
