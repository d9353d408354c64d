"""Prompts to style embeddings, off the event loop.

Everything that the service does with a prompt is here: text and uploaded audio become
embeddings, uploads can be kept under an id, and a style becomes tokens.

Invariant: the event loop never waits for a decoder or an interpreter, decoding has threads of
its own so that slow uploads delay no text, no queue grows without a bound, and no file outlives
its decoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from cachetools import TTLCache
from prometheus_client import Counter, Gauge

from magenta_bento.audio.decode import DecodedAudio, Decoder
from magenta_bento.audio.limits import DecodeLimits
from magenta_bento.errors import InvalidInput, NotReady, Overloaded
from magenta_bento.metrics import Metrics
from magenta_bento.style import Embedding, StyleEncoder, StyleTokens

log = logging.getLogger("magenta_bento")

UPLOAD_THREADS = 2
# Each holds a body of up to MAX_FILE_SIZE_MB on disk, and a client who waits: for seconds if
# those before it are music, for 16 / 2 * 5 s if all of them are as costly as can be.
UPLOADS_WAITING = 16
STYLE_THREADS = 2
# A text or a set of tokens takes a few ms, so the last of these waits about a second.
PROMPTS_WAITING = 256
NO_ROOM_RETRY_AFTER_S = 10
MAX_STORED_PROMPTS = 1_024  # of 3 kB each
STORED_PROMPT_TTL_S = 24 * 3600
_MEAN_OVER = 8  # pieces of work

T = TypeVar("T")


class WorkerPool:
    """WorkerPool for one kind of work, and a bounded queue of those who ask for it.

    The queue is on the event loop's side: who leaves it, cancelled, is not worked for. When it
    is full, the next one is refused.

    Args:
      name: Of the threads.
      count: How many.
      most_waiting: How many may wait for one of them.
      refused: Counts who was not let in.
      waiting: Shows who waits; None for nobody to see.
    """

    def __init__(
        self,
        name: str,
        count: int,
        most_waiting: int,
        refused: Counter,
        waiting: Gauge | None = None,
    ) -> None:
        self._name = name
        self._count = count
        self._most_waiting = most_waiting
        self._refused = refused
        self._gauge = waiting
        self._waiting = 0
        self._mean_s = 0.0  # of one piece of work, the recent ones counting most
        self._free = asyncio.Semaphore(count)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What ``work`` returns or raises, run in a thread.

        Raises:
          Overloaded: Too many wait already; says when their turns will have come.
          NotReady: The threads were shut down.
        """
        if self._free.locked() and self._waiting >= self._most_waiting:
            self._refused.inc()
            wait_s = self._mean_s * (self._waiting + 1) / self._count
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
        try:
            job = self._pool.submit(work, *args)
        except RuntimeError as error:
            self._free.release()
            raise NotReady.shutting_down() from error
        began = loop.time()

        def done(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._done, began)

        # Not when this coroutine ends: cancelled, it leaves a thread that still works.
        job.add_done_callback(done)
        return await asyncio.wrap_future(job)

    def shut_down(self) -> None:
        """Lets nobody in any more; what runs goes on."""
        self._pool.shutdown(wait=False)

    def _done(self, began: float) -> None:
        took_s = asyncio.get_running_loop().time() - began
        self._mean_s += (took_s - self._mean_s) / (_MEAN_OVER if self._mean_s else 1)
        self._free.release()

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        if self._gauge is not None:
            self._gauge.set(self._waiting)


class Prompter:
    """See the module; one a process.

    Args:
      styles: Makes the embeddings.
      max_upload_seconds: Longest audio that is decoded.
      metrics: Where to count.
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
        # Full, it forgets the id that was used longest ago.
        self._stored: TTLCache[str, Embedding] = TTLCache(MAX_STORED_PROMPTS, STORED_PROMPT_TTL_S)

    def close(self) -> None:
        """Ends the decoding of uploads, and the process that does it. Blocks for a moment."""
        self._uploads.shut_down()
        self._prompts.shut_down()
        self._decoder.close()

    async def text(self, prompt: str, *, use_mapper: bool = True) -> Embedding:
        """The embedding of a text, float32 [768]; mapped into audio space for generation.

        Raises:
          Overloaded: Too many prompts wait.
        """
        return await self._prompts.run(self._styles.embed_text, prompt, use_mapper)

    async def audio(self, file: BinaryIO, field: str) -> Embedding:
        """The embedding of an audio file, float32 [768].

        Args:
          file: Its bytes; any format that ``audio.decode`` reads.
          field: What the client called it, for errors.

        Raises:
          InvalidInput: It is no audio that we read, or longer than the bounds.
          Overloaded: Too many uploads wait, or the host has no room for this one.
        """

        def embed() -> Embedding:
            try:
                decoded = self._decoded(file)
            except InvalidInput as error:
                raise type(error).field(field, error.message) from error
            except OSError as error:  # of space, memory, descriptors or processes
                log.warning("an upload could not be taken: %s", error)
                raise Overloaded(
                    "the host has no room for an upload", retry_after_s=NO_ROOM_RETRY_AFTER_S
                ) from error
            return self._styles.embed_audio(decoded.samples, decoded.sample_rate_hz, field)

        return await self._uploads.run(embed)

    def _decoded(self, file: BinaryIO) -> DecodedAudio:
        with tempfile.TemporaryFile() as ours:  # the request's is closed when that ends
            shutil.copyfileobj(file, ours)
            ours.flush()
            with self._metrics.decode_seconds.time():
                return self._decoder.decode(ours, self._limits)

    async def tokens(self, embedding: Embedding) -> StyleTokens:
        """The style tokens of an embedding, int32 [12]."""
        return await self._prompts.run(self._styles.tokenize, embedding)

    async def each_tokens(self, embeddings: list[Embedding]) -> list[StyleTokens]:
        """The style tokens of several embeddings, in one go."""

        def tokenize() -> list[StyleTokens]:
            return [self._styles.tokenize(embedding) for embedding in embeddings]

        return await self._prompts.run(tokenize)

    def store_audio_prompt(self, embedding: Embedding) -> str:
        """Keeps an embedding for a day, or until it is among the oldest; returns its id."""
        audio_id = secrets.token_urlsafe(16)
        self._stored[audio_id] = embedding
        return audio_id

    def stored_audio_prompt(self, audio_id: str) -> Embedding:
        """The embedding behind an id.

        Raises:
          InvalidInput: There is none, or not any more.
        """
        try:
            return self._stored[audio_id]
        except KeyError:
            raise InvalidInput.field("audio_id", "is unknown or forgotten", audio_id) from None
