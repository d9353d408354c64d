"""Where the decoder's training starts: at the linear decoder, as well as its layers can be one.

The encoder is linear up to its codebooks, so what each axis sounds like is known. Two truncated
singular value decompositions fit that into the decoder's shared kernels (Eckart & Young 1936):
one finds the atoms that all bands share, the other the channels of a band. Signals start small,
where an ELU is nearly a straight line, and everything without a part in this starts at zero or
at random behind a zero.

Invariant: no training; the same encoder gives the same start.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tools.demo_model.codec import decoder
from tools.demo_model.codec.decoder import (
    ATOMS,
    BAND_BINS,
    BANDS,
    CHANNELS,
    FEATURES,
    HOP,
    STEPS,
    WINDOW,
)
from tools.demo_model.codec.quantiser import Quantiser

COMPRESSION = 0.25  # quiet bands count more than their energy when ranks are cut


def parameters(encoder: Quantiser, points: np.ndarray, seed: int = 0) -> decoder.Parameters:
    """The decoder to start from.

    Args:
      encoder: The fitted encoder.
      points: float32 [N, 160], some of its features, to know how much each axis moves.
      seed: Of the layers that start at random.
    """
    start = {k: np.array(v) for k, v in decoder.initial(seed, encoder.books).items()}
    spread = decoder.table_spread(encoder.books)
    moves = np.std(points[:, :FEATURES], axis=0) / spread  # of an embedding's entries
    sounds = _axis_sounds(encoder) * spread  # [56, 2 taps, 4, 2 channels, 8 bands, 120]

    energy = np.einsum("dtschk,d->h", sounds**2, moves**2)
    weights = energy ** (-COMPRESSION / 2)
    weighted = sounds * weights[:, None] * moves[:, None, None, None, None, None]
    atoms, _, _ = np.linalg.svd(weighted.reshape(-1, 2 * BAND_BINS).T, full_matrices=False)
    atoms = atoms[:, :ATOMS]  # [120, 32]

    # Rows: tap, step and (channel, atom), of one band's kernel; columns: (band, axis).
    needed = np.einsum("dtschk,ka->tscahd", sounds, atoms)
    scale = weights[:, None] * moves
    flat = (needed * scale).reshape(2 * STEPS * CHANNELS, BANDS * FEATURES)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    left, values, right = left[:, :CHANNELS], values[:CHANNELS], right[:CHANNELS]
    channels = (values[:, None] * right).reshape(CHANNELS, BANDS, FEATURES)
    loudest = np.sqrt(np.sum((channels / weights[:, None]) ** 2, axis=-1)).max(axis=1)
    first = channels / scale * (1 / loudest)[:, None, None]
    kernel = (left * loudest).reshape(2, STEPS, CHANNELS, CHANNELS)

    level = np.sqrt(np.einsum("tscahd,d->tscah", needed**2, moves**2).max())
    kernel /= level
    kernel[1] -= np.eye(CHANNELS)  # the shortcut adds the next frame as it is

    start["first"] = first.transpose(2, 1, 0).reshape(FEATURES, BANDS * CHANNELS)
    start["grow"] = kernel[::-1].transpose(0, 1, 3, 2)[::-1]  # [before or now, step, in, out]
    start["grown"] = np.eye(CHANNELS)
    for name in ("b2", "unit_b", "atoms"):
        start[name] = np.zeros_like(start[name])
    half = BAND_BINS // 2
    pairs = atoms.reshape(BAND_BINS, 2, ATOMS).transpose(0, 2, 1)  # [bin, atom, re or im]
    start["atoms"][2, half:-half] = pairs * level / decoder.SPECTRUM_SCALE
    return {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}


def _axis_sounds(encoder: Quantiser) -> np.ndarray:
    """The STFT of each axis alone: float64 [56, (own frame, the one before), 4, 2, 8, 120]."""
    sounds = np.empty((FEATURES, 2, STEPS, 2, BANDS, 2 * BAND_BINS))
    starts = 1_920 + HOP * np.arange(2 * STEPS)
    for axis in range(FEATURES):
        points = np.zeros((5, encoder.axes.shape[1]), np.float32)
        points[2, axis] = 1.0
        samples = encoder.samples(points)
        windows = samples[starts[:, None] + np.arange(WINDOW)] * decoder.analysis_window()[:, None]
        value = np.fft.rfft(windows, axis=1)[:, : decoder.BINS].transpose(0, 2, 1)
        pairs = np.stack([value.real, value.imag], axis=-1)
        before, own = pairs.reshape(2, STEPS, 2, BANDS, 2 * BAND_BINS)
        sounds[axis] = own, before
    return sounds
