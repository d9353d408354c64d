"""The encoder: a frame's weighted spectrum on its principal axes, then residual codebooks.

1. Coefficients are weighted so that quiet high bands count more than their energy.
2. The first principal axes of what our music does with them are kept (160 of 2,880).
3. Twelve codebooks in turn take the nearest code and leave the rest to the next
   (Juang & Gray 1982), each fitted by k-means to what the ones before it left.

No gradient is needed for any of it, and the decoder is trained on codes that never change.

Invariant: encoding is a function of a frame and its nearest 5 ms on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from tools.demo_model.codec import transform

LEVELS = 12
CODES = 1_024
AXES = 160
WHITENING = 0.4  # of the spectrum's energy, as an exponent: 0 leaves it, 1 makes it flat
SIDE_GAIN = 0.8
SMOOTHING_BINS = 15
QUIET_ENERGY = 1e-7  # bands below it are left alone
ROUNDS = 6  # of k-means
CHUNK = 8_192  # frames compared with a codebook at once


@dataclass(frozen=True, eq=False)
class Quantiser:
    """What encoding needs.

    Attributes:
      weights: float32 [2, 1440], of mid and side coefficients.
      axes: float32 [2880, 160], orthonormal columns, by falling energy.
      books: float32 [12, 1024, 160], codes on those axes.
    """

    weights: np.ndarray
    axes: np.ndarray
    books: np.ndarray

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Samples float32 [N * 1920, 2] to points float32 [N, 160]."""
        return _points(transform.spectra(samples), self.weights, self.axes)

    def codes(self, features: np.ndarray) -> np.ndarray:
        """Points float32 [N, 160] to int16 [N, 12], coarse to fine."""
        residual = features.copy()
        codes = np.empty((len(features), LEVELS), np.int16)
        for level, book in enumerate(self.books):
            codes[:, level] = nearest(residual, book)
            residual -= book[codes[:, level]]
        return codes

    def approximation(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [N, 12] to points float32 [N, 160]."""
        return sum(book[codes[:, level]] for level, book in enumerate(self.books))

    def samples(self, points: np.ndarray) -> np.ndarray:
        """The linear decoder, which the trained one should beat: [N, 160] to [N * 1920, 2]."""
        spectra = (points @ self.axes.T).reshape(len(points), 2, -1) / self.weights
        return transform.frames(spectra)

    def arrays(self) -> Mapping[str, np.ndarray]:
        return {"weights": self.weights, "axes": self.axes, "books": self.books}


def fit(
    pieces: list[np.ndarray], seed: int = 0, report: Callable[[str], None] = print
) -> Quantiser:
    """Fits all three steps to pieces of float32 [N * 1920, 2]."""
    spectra = np.concatenate([transform.spectra(piece) for piece in pieces])
    weights = _weights(spectra)
    random = np.random.RandomState(seed)
    axes = _axes(spectra[random.permutation(len(spectra))[:10_000]] * weights)
    points = _points(spectra, weights, axes)
    total = np.mean(np.sum((spectra * weights) ** 2, axis=(1, 2)))
    energy = np.mean(np.sum(points**2, axis=1))
    report(f"{AXES} axes leave {10 * np.log10(1 - energy / total):.1f} dB of {len(points)} frames")
    del spectra
    books = np.empty((LEVELS, CODES, AXES), np.float32)
    for level in range(LEVELS):
        books[level], labels = k_means(points, random)
        points -= books[level][labels]
        left = np.mean(np.sum(points**2, axis=1)) / energy
        report(f"level {level}: {10 * np.log10(left):.2f} dB left")
    return Quantiser(weights, axes, books)


def k_means(points: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Float32 [N, D] to 1,024 centres float32 [1024, D] and labels int [N].

    A centre that lost all its points moves to one that is badly served.
    """
    count = len(points)
    centres = points[random.choice(count, CODES, replace=count < CODES)].copy()
    for _ in range(ROUNDS):
        labels = nearest(points, centres)
        sizes = np.bincount(labels, minlength=CODES)
        members = scipy.sparse.csr_matrix(
            (np.ones(count, np.float32), (labels, np.arange(count))), shape=(CODES, count)
        )
        centres = np.asarray(members @ points) / np.maximum(sizes, 1)[:, None]
        dead = np.flatnonzero(sizes < 2)
        if len(dead):
            error = np.sum((points - centres[labels]) ** 2, axis=1)
            lost = random.choice(count, len(dead), replace=False, p=error / error.sum())
            centres[dead] = points[lost]
    return centres.astype(np.float32), nearest(points, centres)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The index of each point's nearest centre: int [N]."""
    half_norms = 0.5 * np.sum(centres**2, axis=1)
    labels = np.empty(len(points), np.int64)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        labels[part] = np.argmax(points[part] @ centres.T - half_norms, axis=1)
    return labels


def _points(spectra: np.ndarray, weights: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return (spectra * weights).reshape(len(spectra), -1) @ axes


def _weights(spectra: np.ndarray) -> np.ndarray:
    """Float32 [2, 1440] from spectra [N, 2, 1440]."""
    energy = np.log(np.mean(np.sum(spectra**2, axis=1), axis=0) + QUIET_ENERGY)
    reach = np.arange(-4 * SMOOTHING_BINS, 4 * SMOOTHING_BINS + 1)
    kernel = np.exp(-0.5 * (reach / SMOOTHING_BINS) ** 2)
    padded = np.pad(energy, len(reach) // 2, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    mid = np.exp(-WHITENING / 2 * (smooth - smooth.max()))
    return np.stack([mid, SIDE_GAIN * mid]).astype(np.float32)


def _axes(weighted: np.ndarray) -> np.ndarray:
    flat = weighted.reshape(len(weighted), -1)
    # A randomised range finder (Halko et al. 2011): the covariance would be 2,880 wide.
    random = np.random.RandomState(1)
    basis = random.standard_normal((flat.shape[1], AXES + 32)).astype(np.float32)
    for _ in range(4):
        basis, _ = np.linalg.qr(flat.T @ (flat @ basis))
    _, vectors = np.linalg.eigh((flat @ basis).T @ (flat @ basis))
    return np.ascontiguousarray((basis @ vectors)[:, ::-1][:, :AXES]).astype(np.float32)
