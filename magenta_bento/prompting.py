"""Prompts to style embeddings, off the event loop.

Everything that the service does with a prompt is here: text and uploaded audio become
embeddings, the embedding of an upload can be stored under an id, and a style becomes tokens.

Invariant: the event loop never waits for a decoder or an interpreter, decoding has threads of
its own so that slow uploads delay no text, no queue grows without a bound, and no file outlives
its decoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from cachetools import TTLCache
from prometheus_client import Counter, Gauge

from magenta_bento.audio.decode import DecodedAudio, Decoder
from magenta_bento.audio.decode_limits import DecodeLimits
from magenta_bento.errors import InvalidInput, NotReady, Overloaded
from magenta_bento.metrics import Metrics
from magenta_bento.style import Embedding, Style, StyleEncoder, StyleTokens, blend

log = logging.getLogger("magenta_bento")

UPLOAD_THREADS = 2
# Each waiting upload holds a body of up to MAX_FILE_SIZE_MB on disk, and a client that waits:
# seconds if the uploads before it are music, 16 / 2 * 5 s if each takes all the time it may.
UPLOADS_WAITING = 16
STYLE_THREADS = 2
# An embedding or its tokens take a few ms, so the last in this queue waits about a second.
PROMPTS_WAITING = 256
NO_ROOM_RETRY_AFTER_S = 10
MAX_STORED_PROMPTS = 1_024  # embeddings of 3 kB each
STORED_PROMPT_TTL_S = 24 * 3600
_MEAN_OVER = 8  # the mean time of a job is over about so many recent ones

T = TypeVar("T")


class WorkerPool:
    """Threads for one kind of job, and a bounded queue of callers before them.

    The queue is on the event loop's side. A caller that is cancelled while it waits leaves the
    queue, and its job never starts. A caller that is cancelled while its job runs returns at
    once, but the job keeps its thread until it ends. When the queue is full, the next caller is
    refused.

    ``anyio.to_thread.run_sync`` with a ``CapacityLimiter`` can't stand in: when the caller is
    cancelled, it counts the thread as free while the job still runs, and starts another one. So
    clients that upload and leave would have any number of decoders run at once.

    Args:
      name: What a job is called in messages, and its thread in a debugger.
      threads: How many jobs run at once.
      max_waiting: How many callers may wait for a thread.
      refused: Counts the callers that were refused.
      waiting: Shows how many callers wait; None if no metric does.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        max_waiting: int,
        refused: Counter,
        waiting: Gauge | None = None,
    ) -> None:
        self._name = name
        self._threads = threads
        self._max_waiting = max_waiting
        self._refused = refused
        self._waiting_gauge = waiting
        self._waiting = 0
        self._mean_s = 0.0  # duration of a job, an exponential moving average
        self._free = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """What ``job`` returns or raises, run in a thread with the caller's context variables.

        Raises:
          Overloaded: Too many callers wait already; says when their turns will have come.
          NotReady: The pool was shut down.
        """
        if self._free.locked() and self._waiting >= self._max_waiting:
            self._refused.inc()
            wait_s = self._mean_s * (self._waiting + 1) / self._threads
            raise Overloaded(
                f"{self._waiting} {self._name}s are waiting, as many as may",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        self._count_waiting(+1)
        try:
            await self._free.acquire()
        finally:
            self._count_waiting(-1)
        loop = asyncio.get_running_loop()
        # With the context, what the job logs carries the request's id.
        context = contextvars.copy_context()
        try:
            running = self._pool.submit(context.run, job, *args)
        except RuntimeError as error:
            self._free.release()
            raise NotReady.shutting_down() from error
        started_s = loop.time()

        def free_the_thread(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and no caller is left
                loop.call_soon_threadsafe(self._job_done, started_s)

        # A callback of the job and not the end of this coroutine, which may be cancelled first.
        running.add_done_callback(free_the_thread)
        return await asyncio.wrap_future(running)

    def shut_down(self) -> None:
        """Refuses all further jobs; those that run go on."""
        self._pool.shutdown(wait=False)

    def _job_done(self, started_s: float) -> None:
        took_s = asyncio.get_running_loop().time() - started_s
        self._mean_s += (took_s - self._mean_s) / (_MEAN_OVER if self._mean_s else 1)
        self._free.release()

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        if self._waiting_gauge is not None:
            self._waiting_gauge.set(self._waiting)


@dataclass(frozen=True)
class TextSource:
    """A description in words."""

    text: str


@dataclass(frozen=True)
class AudioSource:
    """An audio file, and what the client called it."""

    file: BinaryIO
    field: str


@dataclass(frozen=True)
class StoredAudioSource:
    """The id of an audio file that was uploaded before."""

    audio_id: str


PromptSource = TextSource | AudioSource | StoredAudioSource


class Prompter:
    """Turns the prompts of all requests of a process into styles.

    Its methods run on the event loop. What takes long, they leave to two pools of threads: one
    for uploads, one for everything else.

    Args:
      styles: Makes the embeddings.
      max_upload_seconds: Longest audio that is decoded, seconds.
      metrics: Counts what waits, what was refused, and the time of decoding.
    """

    def __init__(self, styles: StyleEncoder, max_upload_seconds: float, metrics: Metrics) -> None:
        self._styles = styles
        self._metrics = metrics
        self._limits = DecodeLimits.for_seconds(max_upload_seconds)
        self._decoder = Decoder()
        self._uploads = WorkerPool(
            "upload",
            UPLOAD_THREADS,
            UPLOADS_WAITING,
            metrics.refused.labels("uploads_full"),
            metrics.decodes_waiting,
        )
        self._prompts = WorkerPool(
            "prompt", STYLE_THREADS, PROMPTS_WAITING, metrics.refused.labels("prompts_full")
        )
        # When it is full, the id that was used longest ago is forgotten.
        self._stored: TTLCache[str, Embedding] = TTLCache(MAX_STORED_PROMPTS, STORED_PROMPT_TTL_S)

    def close(self) -> None:
        """Ends the decoding of uploads, and the process that does it. Blocks for a moment."""
        self._uploads.shut_down()
        self._prompts.shut_down()
        self._decoder.close()

    async def text(self, prompt: str, *, use_mapper: bool = True) -> Style:
        """The style of a text; mapped into audio space, as generation wants it.

        Raises:
          Overloaded: Too many prompts wait.
          NotReady: The server shuts down.
        """

        def embed() -> Style:
            return self._styles.style(self._styles.embed_text(prompt, use_mapper))

        return await self._prompts.run(embed)

    async def audio(self, file: BinaryIO, field: str) -> Style:
        """The style of an audio file.

        Args:
          file: The file's bytes, in any format that ``audio.decode`` reads.
          field: The form field that it came in, for errors.

        Raises:
          InvalidInput: The file is no audio that can be read, or longer than the bounds.
          Overloaded: Too many uploads wait, or the host has no room for this one.
          NotReady: The server shuts down.
        """

        def embed() -> Style:
            try:
                decoded = self._decoded(file)
            except InvalidInput as error:
                raise type(error).field(field, error.message) from error
            except OSError as error:  # no space, memory, descriptor or process was left
                log.warning("an upload could not be taken: %s", error)
                raise Overloaded(
                    "the host has no room for an upload", retry_after_s=NO_ROOM_RETRY_AFTER_S
                ) from error
            return self._styles.style(
                self._styles.embed_audio(decoded.samples, decoded.sample_rate_hz, field)
            )

        return await self._uploads.run(embed)

    def _decoded(self, file: BinaryIO) -> DecodedAudio:
        # A copy, because the request's own file is closed when a cancelled request ends.
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            with self._metrics.decode_seconds.time():
                return self._decoder.decode(copy, self._limits)

    async def blend(
        self, prompts: Sequence[PromptSource], weights: Sequence[float], field: str
    ) -> Style:
        """One style of several prompts; texts are mapped into audio space.

        Args:
          prompts: At least one.
          weights: One for each prompt.
          field: What the client called the weights, for errors.

        Raises:
          InvalidInput: The weights don't add up to a style, an id is unknown, or a file is no
            audio that we read.
          Overloaded: Too many prompts or uploads wait, or the host has no room for one.
        """
        parts: list[str | Embedding] = []
        for prompt in prompts:
            match prompt:
                case TextSource(text):
                    parts.append(text)
                case StoredAudioSource(audio_id):
                    parts.append(self.stored_audio_prompt(audio_id))
                case AudioSource(file, name):
                    parts.append((await self.audio(file, name)).embedding)

        def embed() -> Style:
            embeddings = [
                self._styles.embed_text(part) if isinstance(part, str) else part for part in parts
            ]
            return self._styles.style(blend(embeddings, weights, field))

        return await self._prompts.run(embed)

    async def tokens(self, embeddings: Sequence[Embedding]) -> list[StyleTokens]:
        """The style tokens, int32 [12], of each embedding, in one go."""

        def tokenize() -> list[StyleTokens]:
            return [self._styles.tokenize(embedding) for embedding in embeddings]

        return await self._prompts.run(tokenize)

    def store_audio_prompt(self, embedding: Embedding) -> str:
        """Stores the embedding of an upload, float32 [768], under a new id.

        It is kept for ``STORED_PROMPT_TTL_S`` seconds, or until ``MAX_STORED_PROMPTS`` others
        were stored or used after it.

        Returns:
          The id, which can't be guessed: whoever knows it may use the embedding.
        """
        audio_id = secrets.token_urlsafe(16)
        self._stored[audio_id] = embedding
        return audio_id

    def stored_audio_prompt(self, audio_id: str) -> Embedding:
        """The embedding, float32 [768], that is stored under an id.

        Raises:
          InvalidInput: No embedding is stored under it, or none any more.
        """
        try:
            return self._stored[audio_id]
        except KeyError:
            raise InvalidInput.field("audio_id", "is unknown or forgotten", audio_id) from None
