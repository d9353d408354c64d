"""Twelve code books of 1,024 latents each: residual k-means, coarse to fine.

The language model reads a style as the sum of its twelve codes, so what is quantised here are
latents (16 dimensions), and blends of styles, which lie inside the sphere, belong to the data.

Invariant: the same latents and seed give the same books.
"""

from __future__ import annotations

import numpy as np

LEVELS = 12
CODES = 1024
ROUNDS = 5
CHUNK = 8_192  # rows whose distances to all codes are in memory at once


def nearest(latents: np.ndarray, book: np.ndarray) -> np.ndarray:
    """The index of each latent's nearest code, int32 [N]: it maximises r.c - |c|^2 / 2."""
    bias = -0.5 * np.sum(book**2, axis=1)
    chunks = [latents[at : at + CHUNK] for at in range(0, len(latents), CHUNK)]
    return np.concatenate([np.argmax(c @ book.T + bias, axis=1) for c in chunks]).astype(np.int32)


def fit(latents: np.ndarray, seed: int = 0, levels: int = LEVELS, codes: int = CODES) -> np.ndarray:
    """Books float32 [levels, codes, 16] for latents float32 [N, 16], N a few times ``codes``."""
    rng = np.random.RandomState(seed)
    residual = latents.astype(np.float32)
    books = []
    for _ in range(levels):
        book = _k_means(residual, codes, rng)
        books.append(book)
        residual = residual - book[nearest(residual, book)]
    return np.stack(books)


def _k_means(points: np.ndarray, codes: int, rng: np.random.RandomState) -> np.ndarray:
    book = points[rng.choice(len(points), codes, replace=False)]
    for _ in range(ROUNDS):
        owner = nearest(points, book)
        count = np.bincount(owner, minlength=codes)
        # Sorted by owner, each code's points are one run of rows.
        starts = np.cumsum(count) - count
        held = count > 0
        sums = np.add.reduceat(points[np.argsort(owner, kind="stable")], starts[held])
        book[held] = sums / count[held, None].astype(np.float32)
        book[~held] = points[rng.choice(len(points), np.sum(~held))]
    return book


def encode(latents: np.ndarray, books: np.ndarray) -> np.ndarray:
    """Latents float32 [N, 16] to tokens int32 [N, 12]."""
    residual, tokens = latents.astype(np.float32), []
    for book in books:
        tokens.append(nearest(residual, book))
        residual = residual - book[tokens[-1]]
    return np.stack(tokens, axis=1)


def decode(tokens: np.ndarray, books: np.ndarray) -> np.ndarray:
    """Tokens int32 [N, 12] to the sums of their codes, float32 [N, 16]."""
    return np.sum([book[tokens[:, level]] for level, book in enumerate(books)], axis=0)
