"""Text or audio to a style embedding, and a style embedding to style tokens.

1. A prompt, or a clip of audio, becomes an embedding: float32 [768], by MusicCoCa.
2. Several embeddings blend into one by weight.
3. An embedding becomes the style tokens that the model reads: int32 [12], each 0..1023.

Audio is resampled with soxr, not with upstream's resampy, which takes over 100 times as long.

Invariant: a LiteRT interpreter is only ever touched by one thread at a time (shared without a
lock they answer wrongly, and silently), and no array given out can be written to by two.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr  # type: ignore[import-untyped]
from cachetools import LRUCache
from magenta_rt import config as upstream
from numpy.typing import NDArray

from magenta_bento.errors import InvalidInput, WeightsError

EMBEDDING_SIZE = upstream.MUSICCOCA.embedding_size
STYLE_TOKENS = upstream.MUSICCOCA.rvq_truncation_level
CODEBOOK_SIZE = upstream.MUSICCOCA.codebook_size  # a style token is below it
STYLE_SAMPLE_RATE_HZ = 16_000

Embedding = NDArray[np.float32]  # [768]
StyleTokens = NDArray[np.int32]  # [12]


@dataclass(frozen=True, eq=False)
class Style:
    """What music is like, both as it blends and as the model reads it.

    Attributes:
      embedding: float32 [768].
      tokens: int32 [12], 0 to 1023 each, of that embedding.
    """

    embedding: Embedding
    tokens: StyleTokens


_MAPPER_SEED = 0  # of the noise that goes into text -> audio space; upstream's default
_CACHED_EMBEDDINGS = 1024  # of 3 kB each


class StyleEncoder:
    """MusicCoCa behind locks and a cache; every method may be called from any thread.

    Args:
      musiccoca_dir: The folder of MusicCoCa's six files.
    """

    def __init__(self, musiccoca_dir: Path) -> None:
        from magenta_rt import audio, musiccoca  # here, because it takes seconds

        self._dir = musiccoca_dir
        self._model = musiccoca.MusicCoCa(musiccoca_dir)
        self._waveform = audio.Waveform
        # Text, audio and tokens run through different interpreters, so that a prompt never
        # waits for the many clips of a long upload.
        self._text_lock = threading.Lock()
        self._audio_lock = threading.Lock()
        self._token_lock = threading.Lock()
        self._cache: LRUCache[Hashable, Embedding] = LRUCache(_CACHED_EMBEDDINGS)
        self._cache_lock = threading.Lock()

    def warm_up(self) -> None:
        """Loads every interpreter and runs each once.

        Raises:
          WeightsError: A file is missing, or isn't what its name says.
        """
        try:
            self.tokenize(self.embed_text("warm up", use_mapper=True))
            second = np.zeros((STYLE_SAMPLE_RATE_HZ, 1), np.float32)
            self.tokenize(self.embed_audio(second, STYLE_SAMPLE_RATE_HZ))
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"MusicCoCa in {self._dir} can't be loaded: {error}") from error

    def embed_text(self, prompt: str, use_mapper: bool = True) -> Embedding:
        """The embedding of a prompt.

        Args:
          prompt: Any text; MusicCoCa lower-cases it and reads its first 127 tokens.
          use_mapper: Move the embedding to where audio's are, as generation wants it.

        Returns:
          Read-only float32 [768].
        """

        def compute() -> Embedding:
            batch = self._model.embed_batch_text([prompt], use_mapper=use_mapper, seed=_MAPPER_SEED)
            return np.asarray(batch[0], np.float32)

        return self._remembered(("text", prompt, use_mapper), self._text_lock, compute)

    def embed_audio(
        self, samples: NDArray[np.float32], sample_rate_hz: int, field: str = "audio"
    ) -> Embedding:
        """The embedding of audio: the mean over its 10 s clips, the last one zero-padded.

        Args:
          samples: float32 [T, C], 1 at full scale; channels are averaged.
          sample_rate_hz: Of ``samples``.
          field: What the client called the upload, for errors.

        Returns:
          Read-only float32 [768].

        Raises:
          InvalidInput: There are no samples, or one is not a finite number.
        """
        if samples.size == 0:
            raise InvalidInput.field(field, "must hold at least one sample", 0)
        if not np.isfinite(samples).all():
            raise InvalidInput.field(field, "must hold finite samples only")

        def compute() -> Embedding:
            mono = samples.mean(axis=1, dtype=np.float32)
            at_16k = soxr.resample(mono, sample_rate_hz, STYLE_SAMPLE_RATE_HZ, quality="HQ")
            if at_16k.size == 0:  # an upload of less than a sample at 16 kHz
                at_16k = np.zeros(1, np.float32)
            wave = self._waveform(at_16k, STYLE_SAMPLE_RATE_HZ)
            return np.asarray(self._model.embed_batch_audio([wave])[0], np.float32)

        digest = hashlib.blake2b(np.ravel(samples).data, digest_size=16).digest()
        key = ("audio", digest, samples.shape, sample_rate_hz)
        return self._remembered(key, self._audio_lock, compute)

    def tokenize(self, embedding: Embedding) -> StyleTokens:
        """The style tokens, int32 [12], of an embedding, float32 [768]."""
        with self._token_lock:
            return np.asarray(self._model.tokenize(embedding), np.int32)

    def style(self, embedding: Embedding) -> Style:
        """An embedding, float32 [768], with its tokens."""
        return Style(embedding, self.tokenize(embedding))

    def _remembered(
        self, key: Hashable, lock: threading.Lock, compute: Callable[[], Embedding]
    ) -> Embedding:
        """The cached embedding of ``key``, or ``compute``'s, run under ``lock``."""
        if (found := self._cached(key)) is not None:
            return found
        with lock:
            # Whoever held the lock may have been computing this very one.
            if (found := self._cached(key)) is not None:
                return found
            embedding = compute()
            embedding.setflags(write=False)
            with self._cache_lock:
                self._cache[key] = embedding
        return embedding

    def _cached(self, key: Hashable) -> Embedding | None:
        with self._cache_lock:
            return self._cache.get(key)


def blend(
    embeddings: Sequence[Embedding], weights: Sequence[float], field: str = "weights"
) -> Embedding:
    """The weighted mean of embeddings; weights count relative to their sum.

    Args:
      embeddings: At least one, each float32 [768].
      weights: One for each embedding; negative leads away from it.
      field: What the client called the weights, for errors.

    Returns:
      float32 [768].

    Raises:
      InvalidInput: Not one weight for each embedding, a weight that is 0 or not finite, or a
        sum that is not positive.
    """
    if not embeddings:
        raise InvalidInput.field(field, "must hold at least one", len(weights))
    if len(weights) != len(embeddings):
        raise InvalidInput.field(
            field, f"must be one for each of {len(embeddings)} prompts", len(weights)
        )
    for index, weight in enumerate(weights):
        if weight == 0 or not math.isfinite(weight):
            raise InvalidInput.field(f"{field}[{index}]", "must be finite and not 0", weight)
    total = sum(weights)
    if not (math.isfinite(total) and total > 0):
        raise InvalidInput.field(field, "must have a positive sum that is finite", total)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        shares = np.asarray(weights, np.float64) / total
        blended = (shares @ np.stack(embeddings)).astype(np.float32)
    if not np.isfinite(blended).all():
        raise InvalidInput.field(field, "must have a sum further from 0", total)
    return blended
