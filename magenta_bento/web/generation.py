"""Making music for a request: prompts become a style, the style a stream, the stream an answer.

Invariant: a stream that is begun here ends with its request, whichever way that ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from magenta_bento import __version__
from magenta_bento.audio.encode import encode_off_loop, make_file_encoder, make_stream_encoder
from magenta_bento.audio.fades import FadingEncoder
from magenta_bento.audio.formats import (
    CHANNELS,
    FRAME_SAMPLES,
    FRAMES_PER_SECOND,
    SAMPLE_RATE_HZ,
    StreamFormat,
    frames_for,
)
from magenta_bento.audio.tags import Tags
from magenta_bento.controls import seed_or_random
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.errors import InvalidInput
from magenta_bento.live.pacing import Pacer
from magenta_bento.prompting import AudioSource, PromptSource, TextSource
from magenta_bento.runtime import DEMO_NOTE, Runtime
from magenta_bento.style import Style
from magenta_bento.timeline import constant
from magenta_bento.tracing import record, tracer
from magenta_bento.web import headers
from magenta_bento.web.context import RequestContext
from magenta_bento.web.request_models import (
    AudioPrompt,
    BlendPrompts,
    GenerationRequest,
    SamplingRequest,
    StreamRequest,
    TextPrompt,
)
from magenta_bento.web.responses import Rendered, audio_response
from magenta_bento.web.streaming import StreamedAudio, encoded

ENCODE_THREADS = 4
STREAM_LEAD_S = 2.0  # of a stream in real time
ENGINE_LEAD_FRAMES = 10  # unread frames of a stream in real time
ASAP_LEAD_FRAMES = 250  # of one that is sent as fast as it is taken

T = TypeVar("T")


@dataclass(frozen=True)
class ResolvedPrompt:
    """What prompts came to: a style, and what to call the music."""

    style: Style
    title: str


class MusicGenerator:
    """Makes the answers of ``/generate`` and ``/stream``.

    Args:
      runtime: Has the engine and the prompter, once they are loaded.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        # Each entry is one open request: bounded by the engine's queue and slots.
        self._encodes = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")

    async def check(
        self, request: GenerationRequest | StreamRequest, context: RequestContext
    ) -> None:
        """Refuses a request before anything of it costs.

        Raises:
          InvalidInput: It is to be longer than a setting allows.
          NotReady: The model is loading, or the server shuts down.
          Overloaded: Nobody else may wait.
          AudioBudgetSpent: The client has had its seconds of music.
        """
        seconds = request.seconds
        if seconds is not None:
            seconds = self._bounded_s(request, seconds)
        self._runtime.loaded.engine.check_room()
        await context.budget.check(seconds)

    @tracer.start_as_current_span("embed")
    async def embed_text(self, prompt: TextPrompt) -> ResolvedPrompt:
        style = await self._runtime.loaded.prompter.text(prompt.prompt)
        return ResolvedPrompt(style, prompt.prompt)

    @tracer.start_as_current_span("embed")
    async def embed_audio(self, prompt: AudioPrompt) -> ResolvedPrompt:
        (upload,) = prompt.uploads("audio_file")
        parts: list[PromptSource] = [AudioSource(upload.file, "audio_file")]
        weights = [prompt.audio_weight]
        if prompt.prompt is not None:
            parts.append(TextSource(prompt.prompt))
            weights.append(prompt.text_weight)
        style = await self._runtime.loaded.prompter.blend(
            parts, weights, "audio_weight and text_weight"
        )
        return ResolvedPrompt(style, prompt.prompt or Path(upload.filename).stem)

    @tracer.start_as_current_span("embed")
    async def embed_blend(self, prompts: BlendPrompts) -> ResolvedPrompt:
        files = prompts.uploads("audio_files")
        texts = [TextSource(text) for text in prompts.text_prompts]
        audio = [
            AudioSource(file.file, f"audio_files[{index}]") for index, file in enumerate(files)
        ]
        weights = [
            *(prompts.text_weights or [1.0] * len(texts)),
            *(prompts.audio_weights or [1.0] * len(audio)),
        ]
        style = await self._runtime.loaded.prompter.blend(
            [*texts, *audio], weights, "text_weights and audio_weights"
        )
        names = [*prompts.text_prompts, *(Path(file.filename).stem for file in files)]
        return ResolvedPrompt(style, " + ".join(names))

    async def respond_with_file(
        self, request: GenerationRequest, resolved: ResolvedPrompt, context: RequestContext
    ) -> Response:
        """A finished file.

        Raises:
          ClientDisconnect: The client left.
          ServiceError: The engine refuses, or the model or the encoder fails.
        """
        began = time.monotonic()
        frames = frames_for(self._bounded_s(request, request.seconds))
        stream = await self._begin(request, resolved, context, frames)
        await context.budget.charge(frames / FRAMES_PER_SECOND)
        tags = self._tags(resolved.title, stream.seed)
        encoder = make_file_encoder(request.format, tags, self._settings.mp3_bitrate_kbps)
        if request.fade_in or request.fade_out:
            encoder = FadingEncoder(encoder, request.fade_in, request.fade_out)
        async for block in stream.blocks():
            await encode_off_loop(encoder, block, self._encodes)
        if stream.phase is not Phase.FINISHED:
            raise ClientDisconnect
        data = await self._encode(encoder.finish)
        record("encode", stream.timing.first_block or began, time.monotonic())
        return audio_response(
            Rendered(
                data=data,
                format=request.format,
                title=resolved.title,
                seed=stream.seed,
                model=self._runtime.files.name,
                audio_s=frames / FRAMES_PER_SECOND,
                took_s=time.monotonic() - began,
            )
        )

    async def respond_with_stream(
        self, request: StreamRequest, resolved: ResolvedPrompt, context: RequestContext
    ) -> Response:
        """Audio that is sent while it is made.

        Raises as :meth:`respond_with_file` does, before the first byte is sent.
        """
        seconds = request.seconds
        frames = None if seconds is None else frames_for(self._bounded_s(request, seconds))
        live = request.in_real_time
        stream = await self._begin(
            request,
            resolved,
            context,
            frames,
            lead_frames=ENGINE_LEAD_FRAMES if live else ASAP_LEAD_FRAMES,
            live=live,
        )
        encoder = make_stream_encoder(
            request.format,
            self._tags(resolved.title, stream.seed),
            samples=None if frames is None else frames * FRAME_SAMPLES,
            mp3_bitrate_kbps=self._settings.mp3_bitrate_kbps,
        )
        pacer = None
        if live:
            lead_s = STREAM_LEAD_S - ENGINE_LEAD_FRAMES / FRAMES_PER_SECOND
            pacer = Pacer(lead_s, on_underrun=self._runtime.metrics.underruns.inc)
        chunks = encoded(stream, encoder, pacer, context.budget, self._encodes)
        try:
            first = await anext(chunks)
        except StopAsyncIteration:
            raise ClientDisconnect from None
        response_headers = {
            headers.SEED.name: str(stream.seed),
            headers.MODEL.name: self._runtime.files.name,
            headers.CACHE_CONTROL: "no-store",
        }
        if request.format is StreamFormat.pcm:
            response_headers |= {
                headers.SAMPLE_RATE.name: str(SAMPLE_RATE_HZ),
                headers.CHANNEL_COUNT.name: str(CHANNELS),
                headers.SAMPLE_FORMAT.name: headers.SAMPLE_FORMAT_NAME,
            }
        return StreamedAudio(
            first, chunks, stream.cancel, request.format.media_type, response_headers
        )

    async def _begin(
        self,
        request: SamplingRequest,
        resolved: ResolvedPrompt,
        context: RequestContext,
        frames: int | None,
        *,
        lead_frames: int | None = None,
        live: bool = False,
    ) -> Stream:
        """Admits a stream that ends when its client goes away."""
        loaded = self._runtime.loaded
        spec = StreamSpec(
            constant(resolved.style.tokens, request.controls()),
            seed_or_random(request.seed),
            frames,
            lead_frames=lead_frames,
            client=context.client.id,
            live=live,
        )
        stream = loaded.engine.submit(spec, asyncio.get_running_loop())
        context.on_disconnect(stream.cancel)
        context.attach_stream(stream, loaded.engine.position(stream))
        context.prompt = resolved.title
        return stream

    def _bounded_s(self, request: GenerationRequest | StreamRequest, seconds: float) -> float:
        """How long music with an end is to be, within what a setting allows.

        Raises:
          InvalidInput: Longer than a setting allows.
        """
        longest = type(request).max_values(self._settings)["duration"]
        if "duration" not in request.model_fields_set:
            return min(seconds, longest)
        if seconds > longest:
            raise InvalidInput.field("duration", f"must be at most {longest:g} seconds", seconds)
        return seconds

    def _tags(self, title: str, seed: int) -> Tags:
        demo = f"; {DEMO_NOTE}" if self._runtime.is_demo else ""
        return Tags(
            title=title,
            artist=self._runtime.files.name,
            comment=f"seed {seed}{demo}",
            software=f"magenta-bento {__version__}",
        )

    async def _encode(self, work: Callable[..., T], *args: Any) -> T:
        """Runs an encoder off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._encodes, work, *args)
