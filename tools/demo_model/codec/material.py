"""Pieces to train on, rendered once and kept on disk.

Invariant: piece k is always seed k; the first HELD_OUT ones are never trained on.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model import CACHE
from tools.demo_model.music.piece import compose

PIECE_FRAMES = 250
PIECE_SAMPLES = PIECE_FRAMES * 1_920
HELD_OUT = 12


def pieces(count: int, first_seed: int = 0) -> np.ndarray:
    """float16 [count, 480000, 2], mapped from disk; rendered if not there."""
    path = CACHE / f"codec_pieces_{first_seed}_{count}.npy"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        beginning = path.with_suffix(".part")
        shape = (count, PIECE_SAMPLES, 2)
        stored = np.lib.format.open_memmap(beginning, "w+", np.float16, shape)
        for row in range(count):
            stored[row] = compose(first_seed + row, PIECE_FRAMES).samples
        stored.flush()
        beginning.rename(path)
    return np.load(path, mmap_mode="r")
