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

from starlette.responses import Response

from magenta_bento import __version__, conditioning
from magenta_bento.audio.encode import encode_off_loop, make_file_encoder, make_stream_encoder
from magenta_bento.audio.formats import (
    CHANNELS,
    FRAME_SAMPLES,
    FRAMES_PER_SECOND,
    SAMPLE_RATE_HZ,
    StreamFormat,
    frames_for,
)
from magenta_bento.audio.tags import Tags
from magenta_bento.engine.spec import StreamSpec, seed_or_random
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.errors import InvalidInput
from magenta_bento.live.pacing import Pacer
from magenta_bento.runtime import DEMO_NOTE, Runtime
from magenta_bento.style import Embedding, blend
from magenta_bento.tracing import record, tracer
from magenta_bento.web.endpoint import Call, ClientGone
from magenta_bento.web.requests import (
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
    """What prompts came to: a style, float32 [768], and what to call the music."""

    style: Embedding
    title: str


class MusicGenerator:
    """See the module.

    Args:
      runtime: Has the engine and the prompter, once they are loaded.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        # Each entry is one open request: bounded by the engine's queue and slots.
        self._encodes = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")

    async def check(self, request: GenerationRequest | StreamRequest, call: Call) -> None:
        """Refuses a request before anything of it costs.

        Raises:
          InvalidInput: It is to be longer than a setting allows.
          NotReady: The model is loading, or the server shuts down.
          Overloaded: Nobody else may wait.
          AudioBudgetSpent: The client has had its seconds of music.
        """
        seconds = self.seconds(request)
        self._runtime.loaded.engine.check_room()
        await call.budget.check(seconds)

    @tracer.start_as_current_span("embed")
    async def embed_text(self, prompt: TextPrompt) -> ResolvedPrompt:
        return ResolvedPrompt(
            await self._runtime.loaded.prompter.text(prompt.prompt), prompt.prompt
        )

    @tracer.start_as_current_span("embed")
    async def embed_audio(self, prompt: AudioPrompt) -> ResolvedPrompt:
        prompter = self._runtime.loaded.prompter
        (upload,) = prompt.uploads("audio_file")
        parts = [await prompter.audio(upload.file, "audio_file")]
        weights = [prompt.audio_weight]
        if prompt.prompt is not None:
            parts.append(await prompter.text(prompt.prompt))
            weights.append(prompt.text_weight)
        style = blend(parts, weights, "audio_weight and text_weight")
        return ResolvedPrompt(style, prompt.prompt or Path(upload.filename).stem)

    @tracer.start_as_current_span("embed")
    async def embed_blend(self, prompts: BlendPrompts) -> ResolvedPrompt:
        prompter = self._runtime.loaded.prompter
        files = prompts.uploads("audio_files")
        texts = [await prompter.text(text) for text in prompts.text_prompts]
        audio = [
            await prompter.audio(file.file, f"audio_files[{index}]")
            for index, file in enumerate(files)
        ]
        weights = [
            *(prompts.text_weights or [1.0] * len(texts)),
            *(prompts.audio_weights or [1.0] * len(audio)),
        ]
        style = blend([*texts, *audio], weights, "text_weights and audio_weights")
        names = [*prompts.text_prompts, *(Path(file.filename).stem for file in files)]
        return ResolvedPrompt(style, " + ".join(names))

    async def respond_with_file(
        self, request: GenerationRequest, resolved: ResolvedPrompt, call: Call
    ) -> Response:
        """A finished file.

        Raises:
          ClientGone: The client left.
          ServiceError: The engine refuses, or the model or the encoder fails.
        """
        began = time.monotonic()
        frames = frames_for(self.seconds(request))
        stream = await self._begin(request, resolved, call, frames)
        await call.budget.charge(frames / FRAMES_PER_SECOND)
        tags = self._tags(resolved.title, stream.seed)
        encoder = make_file_encoder(request.format, tags, self._settings.mp3_bitrate_kbps)
        async for block in stream.blocks():
            await encode_off_loop(encoder, block, self._encodes)
        if stream.phase is not Phase.FINISHED:
            raise ClientGone
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
        self, request: StreamRequest, resolved: ResolvedPrompt, call: Call
    ) -> Response:
        """Bytes that leave as they come; raises as :meth:`file` does, before the first of them."""
        seconds = self.seconds(request)
        frames = frames_for(seconds) if seconds else None
        live = request.in_real_time
        stream = await self._begin(
            request,
            resolved,
            call,
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
        chunks = encoded(stream, encoder, pacer, call.budget, self._encodes)
        try:
            first = await anext(chunks)
        except StopAsyncIteration:
            raise ClientGone from None
        headers = {"X-Seed": str(stream.seed), "X-Model": self._runtime.files.name}
        headers["Cache-Control"] = "no-store"
        if request.format is StreamFormat.pcm:
            headers["X-Sample-Rate"] = str(SAMPLE_RATE_HZ)
            headers["X-Channels"] = str(CHANNELS)
            headers["X-Sample-Format"] = "s16le"
        return StreamedAudio(first, chunks, stream.cancel, request.format.media_type, headers)

    async def _begin(
        self,
        request: SamplingRequest,
        resolved: ResolvedPrompt,
        call: Call,
        frames: int | None,
        *,
        lead_frames: int | None = None,
        live: bool = False,
    ) -> Stream:
        """Admits a stream that ends when its client goes away."""
        loaded = self._runtime.loaded
        guidance = conditioning.Guidance(style=request.guidance)
        spec = StreamSpec(
            conditioning.build(
                await loaded.prompter.tokens(resolved.style),
                conditioning.Controls(guidance),
                request.temperature,
                request.top_k,
            ),
            seed_or_random(request.seed),
            frames,
            lead_frames=lead_frames,
            client=call.context.client.id,
            live=live,
        )
        stream = loaded.engine.submit(spec, asyncio.get_running_loop())
        call.when_gone(stream.cancel)
        call.context.plays(stream, loaded.engine.position(stream))
        call.context.prompt = resolved.title
        return stream

    def seconds(self, request: GenerationRequest | StreamRequest) -> float:
        """How long the music is to be; 0 for as long as somebody listens.

        Raises:
          InvalidInput: Longer than a setting allows.
        """
        is_stream = isinstance(request, StreamRequest)
        longest = self._settings.max_stream_duration if is_stream else self._settings.max_duration
        if "duration" not in request.model_fields_set:
            return min(request.duration, longest)
        if request.duration > longest:
            raise InvalidInput.field(
                "duration", f"must be at most {longest:g} seconds", request.duration
            )
        return request.duration

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
