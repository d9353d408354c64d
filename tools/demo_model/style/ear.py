"""The trained style model in numpy and JAX, many inputs at once: for making training data.

Invariant: embeddings and tokens are those of the LiteRT files, up to float32 rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
import sentencepiece
import soxr

from tools.demo_model import CACHE
from tools.demo_model.style import network, quantiser, spectrum

FIRST_PATH = CACHE / "style_first.npz"  # before it heard the codec
PATH = CACHE / "style.npz"


@dataclasses.dataclass(frozen=True)
class Ear:
    """Text and audio to latents, and latents to style tokens.

    Attributes:
      parameters: Of :mod:`network`, float32.
      books: The quantiser's code books, float32 [12, 1024, 16]; a style token's vector.
      spm: The serialised vocabulary.
    """

    parameters: Mapping[str, np.ndarray]
    books: np.ndarray
    spm: bytes

    @classmethod
    def load(cls, path: Path = PATH) -> Ear:
        """Reads what :mod:`~tools.demo_model.style.train`, or ``adapt`` after it, wrote."""
        with np.load(path) as stored:
            arrays = dict(stored)
        return cls(spm=arrays.pop("spm").tobytes(), books=arrays.pop("books"), parameters=arrays)

    def save(self, path: Path = PATH) -> None:
        """Writes one .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        spm = np.frombuffer(self.spm, np.uint8)
        np.savez(partial, spm=spm, books=self.books, **self.parameters)
        partial.replace(path)

    @cached_property
    def _pieces(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.spm)

    def text(self, texts: Sequence[str], mapper: bool = True, seed: int | None = 0) -> np.ndarray:
        """Latents float32 [N, 16] of texts.

        Args:
          texts: In any case, of any length.
          mapper: Move them to where audio's are, as a served prompt is.
          seed: Of the mapper's noise, the same for all, as upstream has it (0 when served);
            None for none.
        """
        ids, present = token_ids(self._pieces, texts)
        latents = network.text_latent(self.parameters, ids, present)
        if mapper:
            latents = network.mapped(self.parameters, latents)
            if seed is not None:
                noise = np.random.RandomState(seed).randn(network.EMBEDDING_DIMS)
                shaken = latents + network.NOISE_SCALE * (noise @ network.image())
                latents = network.unit(shaken)
        return np.array(latents, np.float32)

    def audio(self, samples: np.ndarray, sample_rate_hz: int = 48_000) -> np.ndarray:
        """The latent float32 [16] of audio float32 [T, C]: the mean over its 10 s clips.

        A rest of under 2 s after the last whole clip does not count, unlike when served.
        """
        return self.summaries(clip_summaries(samples, sample_rate_hz))

    def summaries(self, summaries: np.ndarray) -> np.ndarray:
        """The mean latent float32 [16] of clips' summaries float32 [clips, 416]."""
        latents = jax.jit(network.audio_latent)(self.parameters, summaries)
        return np.asarray(latents, np.float32).mean(axis=0)

    def tokens(self, latents: np.ndarray) -> np.ndarray:
        """Style tokens int32 [N, 12] of latents float32 [N, 16], blends of them included."""
        return quantiser.encode(latents, self.books)

    def embedding(self, latents: np.ndarray) -> np.ndarray:
        """Latents float32 [N, 16] as the product knows them, float32 [N, 768]."""
        embedding: np.ndarray = latents @ network.image().T
        return embedding


def token_ids(
    pieces: sentencepiece.SentencePieceProcessor, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [N, 128] as upstream has them, and 1 where there is one, float32 [N, 128]."""
    ids = np.zeros((len(texts), network.MAX_TEXT_TOKENS), np.int32)
    present = np.zeros(ids.shape, np.float32)
    for row, text in enumerate(texts):
        labels = [network.BOS_ID, *pieces.EncodeAsIds(text.lower())][: network.MAX_TEXT_TOKENS]
        ids[row, : len(labels)] = labels
        present[row, : len(labels)] = 1
    return ids, present


def clip_summaries(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Summaries float32 [clips, 416] of audio float32 [T, C], of its :func:`whole_clips`."""
    clips = whole_clips(samples, sample_rate_hz)
    return np.stack([spectrum.summary(spectrum.log_bands(clip)) for clip in clips])


def whole_clips(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """float32 [clips, 160000] at 16 kHz, mono; audio of under 10 s is padded to one clip."""
    mono = samples.mean(axis=1, dtype=np.float32)
    resampled = soxr.resample(mono, sample_rate_hz, spectrum.SAMPLE_RATE_HZ, quality="HQ")
    short = -len(resampled) % spectrum.CLIP_SAMPLES
    if len(resampled) < spectrum.CLIP_SAMPLES or short < spectrum.CLIP_SAMPLES * 0.8:
        resampled = np.pad(resampled, (0, short))
    count = len(resampled) // spectrum.CLIP_SAMPLES
    clips: np.ndarray = resampled[: count * spectrum.CLIP_SAMPLES]
    return clips.reshape(count, spectrum.CLIP_SAMPLES)
