"""Prompts to style embeddings, off the event loop.

Everything that a door to the service does with a prompt is here: text and uploaded audio become
embeddings, uploads can be kept under an id, and a style becomes tokens.

Invariant: the event loop never waits for a decoder or an interpreter, decoding has threads of
its own so that slow uploads delay no text, and no file outlives its decoding.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cachetools import TTLCache

from magenta_bento.audio.decode import Decoded, decode_upload
from magenta_bento.audio.limits import DecodeLimits
from magenta_bento.errors import InvalidInput
from magenta_bento.style import Embedding, StyleEncoder, StyleTokens

UPLOAD_THREADS = 2
STYLE_THREADS = 2
SHELF_EMBEDDINGS = 1_024  # of 3 kB each
SHELF_KEEPS_S = 24 * 3600

T = TypeVar("T")


class Prompter:
    """See the module; one a process.

    Args:
      styles: Makes the embeddings.
      max_upload_seconds: Longest audio that is decoded.
    """

    def __init__(self, styles: StyleEncoder, max_upload_seconds: float) -> None:
        self._styles = styles
        self._limits = DecodeLimits(max_seconds=max_upload_seconds)
        # Executors queue without a bound of their own; each entry is one open request.
        self._decoding = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        self._embedding = ThreadPoolExecutor(STYLE_THREADS, thread_name_prefix="style")
        # Full, it forgets the id that was used longest ago.
        self._shelf: TTLCache[str, Embedding] = TTLCache(SHELF_EMBEDDINGS, SHELF_KEEPS_S)

    async def text(self, prompt: str, *, use_mapper: bool = True) -> Embedding:
        """The embedding of a text, float32 [768]; mapped into audio space for generation."""
        return await _run(self._embedding, self._styles.embed_text, prompt, use_mapper)

    async def audio(self, file: BinaryIO, field: str) -> Embedding:
        """The embedding of an audio file, float32 [768].

        Args:
          file: Its bytes; any format that ``audio.decode`` reads.
          field: What the client called it, for errors.

        Raises:
          InvalidInput: It is no audio that we read, or longer than the bounds.
        """

        def embed() -> Embedding:
            decoded = _decoded(file, field, self._limits)
            return self._styles.embed_audio(decoded.samples, decoded.sample_rate_hz, field)

        return await _run(self._decoding, embed)

    async def tokens(self, embedding: Embedding) -> StyleTokens:
        """The style tokens of an embedding, int32 [12]."""
        return await _run(self._embedding, self._styles.tokenize, embedding)

    async def each_tokens(self, embeddings: list[Embedding]) -> list[StyleTokens]:
        """The style tokens of several embeddings, in one go."""

        def tokenize() -> list[StyleTokens]:
            return [self._styles.tokenize(embedding) for embedding in embeddings]

        return await _run(self._embedding, tokenize)

    def shelve(self, embedding: Embedding) -> str:
        """Keeps an embedding for a day, or until it is among the oldest; returns its id."""
        audio_id = secrets.token_urlsafe(16)
        self._shelf[audio_id] = embedding
        return audio_id

    def shelved(self, audio_id: str) -> Embedding:
        """The embedding behind an id.

        Raises:
          InvalidInput: There is none, or not any more.
        """
        try:
            return self._shelf[audio_id]
        except KeyError:
            raise InvalidInput.field("audio_id", "is unknown or forgotten", audio_id) from None


def _decoded(file: BinaryIO, field: str, limits: DecodeLimits) -> Decoded:
    with tempfile.NamedTemporaryFile(prefix="magenta-bento-upload-") as named:
        shutil.copyfileobj(file, named)
        named.flush()
        try:
            return decode_upload(Path(named.name), limits)
        except InvalidInput as error:
            raise type(error).field(field, error.message) from error


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *args)
