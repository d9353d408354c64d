"""Frames of samples to what the codec hears of them, and back: a lapped transform.

An MDCT of 1,920 coefficients a frame (Princen & Bradley 1987) whose window overlaps its
neighbours by only 10 ms. All our events start on the frame grid, so that a frame's spectrum
depends on its own 40 ms and hardly on what was before.

Invariant: orthonormal; ``frames(spectra(x)) == x`` but for the outermost half overlap.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

FRAME_SAMPLES = 1_920
OVERLAP_SAMPLES = 480
KEPT_BINS = 1_440  # of 12.5 Hz: up to 18 kHz
_EDGE = OVERLAP_SAMPLES // 2


def spectra(samples: np.ndarray) -> np.ndarray:
    """Samples float32 [N * 1920, 2] to float32 [N, 2, 1440]: mid and side."""
    mid_side = samples @ (np.array([[1.0, 1.0], [1.0, -1.0]], np.float32) / np.sqrt(2.0))
    frames = len(samples) // FRAME_SAMPLES
    padded = np.pad(mid_side.T.astype(np.float32), ((0, 0), (_EDGE, _EDGE)))
    body = padded[:, _EDGE:-_EDGE].reshape(2, frames, FRAME_SAMPLES).copy()
    rise = _rise()
    # Samples around each border between frames: [2, N + 1, 480].
    starts = np.arange(frames + 1) * FRAME_SAMPLES
    border = padded[:, starts[:, None] + np.arange(OVERLAP_SAMPLES)]
    before, after = border[..., :_EDGE], border[..., _EDGE:]
    head = rise[_EDGE:] * after + rise[:_EDGE][::-1] * before[..., ::-1]
    tail = rise[_EDGE:][::-1] * before - rise[:_EDGE] * after[..., ::-1]
    body[:, :, :_EDGE] = head[:, :-1]
    body[:, :, -_EDGE:] = tail[:, 1:]
    coefficients = scipy.fft.dct(body, type=4, norm="ortho", axis=-1)
    return coefficients[..., :KEPT_BINS].transpose(1, 0, 2)


def frames(coefficients: np.ndarray) -> np.ndarray:
    """The inverse: float32 [N, 2, 1440] to samples float32 [N * 1920, 2]."""
    count = len(coefficients)
    full = np.zeros((2, count, FRAME_SAMPLES), np.float32)
    full[..., :KEPT_BINS] = coefficients.transpose(1, 0, 2)
    body = scipy.fft.dct(full, type=4, norm="ortho", axis=-1)
    rise = _rise()
    head, tail = body[:, 1:, :_EDGE].copy(), body[:, :-1, -_EDGE:].copy()
    body[:, 1:, :_EDGE] = rise[_EDGE:] * head - rise[:_EDGE][::-1] * tail[..., ::-1]
    body[:, :-1, -_EDGE:] = rise[_EDGE:][::-1] * tail + rise[:_EDGE] * head[..., ::-1]
    mid_side = body.reshape(2, -1).T
    return mid_side @ (np.array([[1.0, 1.0], [1.0, -1.0]], np.float32) / np.sqrt(2.0))


def _rise() -> np.ndarray:
    """float32 [480]: sine slope; its squares and their mirror image add up to 1."""
    return np.sin((np.arange(OVERLAP_SAMPLES) + 0.5) * np.pi / (2 * OVERLAP_SAMPLES)).astype(
        np.float32
    )
