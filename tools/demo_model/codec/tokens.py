"""Music to codes and back, with what ``train`` wrote.

Code frame t says what sounds from sample 1,920 t on. A fresh stream plays the same samples one
frame later, since its decoder waits for frame t + 1: that is its silent start.

Invariant: decoding is upstream's function of the codes, to rounding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tools.demo_model import CACHE
from tools.demo_model.codec import decoder
from tools.demo_model.codec.quantiser import LEVELS, Quantiser

FILE = CACHE / "codec.npz"
ENCODER, AVERAGED = "encoder/", "averaged/"
PADDING_FRAMES = 16  # decoding compiles once for each multiple


@dataclass(frozen=True, eq=False)
class Codec:
    """A trained codec.

    Attributes:
      quantiser: Its encoder.
      parameters: Its decoder's, as :mod:`decoder` has them.
    """

    quantiser: Quantiser
    parameters: decoder.Parameters

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Samples float32 [..., N * 1920, 2] to codes int16 [..., N, 12]."""
        rows = samples.reshape(-1, *samples.shape[-2:])
        codes = [self.quantiser.codes(self.quantiser.features(row)) for row in rows]
        return np.stack(codes).reshape(*samples.shape[:-2], -1, LEVELS)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [..., N, 12] to samples float32 [..., N * 1920, 2], from sample 0 on."""
        rows = codes.reshape(-1, *codes.shape[-2:]).astype(np.int32)
        frames = rows.shape[1]
        extra = 1 + -(frames + 1) % PADDING_FRAMES  # the last frame needs a next one
        padded = np.pad(rows, ((0, 0), (0, extra), (0, 0)), mode="edge")
        played = np.asarray(_decode(self.parameters, padded))[:, : frames * 1_920]
        return played.reshape(*codes.shape[:-2], -1, 2)

    def exported(self) -> dict[str, np.ndarray]:
        """Checkpoint names to float32 arrays, complete with their prefix."""
        named = decoder.exported(self.parameters)
        return {f"params/soundstream/{name}": value for name, value in named.items()}


def load(path: Path = FILE) -> Codec:
    """Reads ``codec.npz``."""
    with np.load(path) as file:
        stored = dict(file)
    parameters = {name: jnp.asarray(value) for name, value in below(stored, AVERAGED).items()}
    return Codec(Quantiser(**below(stored, ENCODER)), parameters)


def below(stored: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def encode(samples: np.ndarray) -> np.ndarray:
    """:meth:`Codec.encode` of the trained codec."""
    return _trained().encode(samples)


def decode(codes: np.ndarray) -> np.ndarray:
    """:meth:`Codec.decode` of the trained codec."""
    return _trained().decode(codes)


@functools.cache
def _trained() -> Codec:
    return load()


@jax.jit
def _decode(parameters: decoder.Parameters, codes: jax.Array) -> jax.Array:
    return decoder.samples(decoder.spectra(parameters, decoder.embed(parameters, codes)))
