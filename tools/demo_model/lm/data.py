"""``python -m tools.demo_model.lm.data``: music as tokens with labels, in shards.

1. The takes are made (:mod:`takes`), with captions of their styles.
2. The codec turns their sound into tokens.
3. The styles' summaries and the captions are kept, from which the style model tells style tokens
   when training starts.

Invariant: shard k holds takes k * SHARD_PIECES and on, of one kind, and depends on them and the
codec's encoder alone; a shard that exists is not made again.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from tools.demo_model.codec import tokens as codec
from tools.demo_model.lm import takes
from tools.demo_model.lm.pieces import Pieces, shard_path
from tools.demo_model.lm.takes import Take
from tools.demo_model.music.captions import caption
from tools.demo_model.music.piece import Piece
from tools.demo_model.style.ear import clip_summaries

SAMPLE_RATE_HZ = 48_000
SHARD_PIECES = 16
CAPTIONS = 8
# In turn, so that any number of shards has about as much of each.
KINDS = (takes.plain, takes.plain, takes.plain, takes.by_hand, takes.blended)


def make(shard: int) -> Pieces:
    """The pieces of one shard."""
    rng = np.random.default_rng(shard)
    kind = KINDS[shard % len(KINDS)]
    made = [kind(shard * SHARD_PIECES + number) for number in range(SHARD_PIECES)]
    return Pieces(
        codes=np.stack([codec.encode(take.samples) for take in made]).astype(np.int16),
        notes=np.stack([take.notes for take in made]).astype(np.int8),
        drums=np.stack([take.drums for take in made]).astype(np.int8),
        by_hand=np.array([take.by_hand for take in made]),
        weights=np.array([take.weights for take in made], np.float32),
        summaries=np.stack([_of_both(take, _summaries) for take in made]).astype(np.float32),
        captions=np.stack([_of_both(take, lambda p: _captions(p, rng)) for take in made]),
    )


def _of_both(take: Take, found: Callable[[Piece], np.ndarray]) -> np.ndarray:
    """What is found in each of the two styles; only once if they are the same."""
    first, second = take.styles
    one = found(first)
    return np.stack([one, one if second is first else found(second)])


def _captions(piece: Piece, rng: np.random.Generator) -> np.ndarray:
    return np.array([caption(piece.style, rng) for _ in range(CAPTIONS)])


def _summaries(piece: Piece) -> np.ndarray:
    return clip_summaries(piece.samples, SAMPLE_RATE_HZ)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=320)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    started = time.monotonic()
    missing = [shard for shard in range(options.shards) if not shard_path(shard).exists()]
    # Fresh processes: JAX's threads do not survive a fork.
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for shard in pool.map(_keep, missing):
            print(f"shard {shard} after {time.monotonic() - started:.0f} s", flush=True)


def _keep(shard: int) -> int:
    make(shard).save(shard)
    return shard


if __name__ == "__main__":
    main()
