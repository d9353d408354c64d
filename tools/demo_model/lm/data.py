"""``python -m tools.demo_model.lm.data --minutes N``: music as tokens with labels, in shards.

1. Piece i is composed from seed ``FIRST_SEED + i``, with captions of its style.
2. The codec turns its sound into tokens.
3. The sound's summaries and the captions are kept, from which the style model tells style tokens
   when training starts.

Invariant: shard k holds pieces k * SHARD_PIECES and on, and depends on them and the codec's
encoder alone; a shard that exists is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from tools.demo_model.codec import tokens as codec
from tools.demo_model.lm.pieces import Pieces, shard_path
from tools.demo_model.music.captions import caption
from tools.demo_model.music.piece import Piece, compose
from tools.demo_model.style import spectrum
from tools.demo_model.style.ear import whole_clips

FIRST_SEED = 1_000_000
FRAMES = 600  # 24 s
SAMPLE_RATE_HZ = 48_000
SHARD_PIECES = 16
CAPTIONS = 8


def make(shard: int) -> Pieces:
    """The pieces of one shard."""
    rng = np.random.default_rng(shard)
    indices = range(shard * SHARD_PIECES, (shard + 1) * SHARD_PIECES)
    composed = [compose(FIRST_SEED + index, FRAMES) for index in indices]
    captions = [[caption(piece.style, rng) for _ in range(CAPTIONS)] for piece in composed]
    return Pieces(
        codes=np.stack([codec.encode(piece.samples) for piece in composed]).astype(np.int16),
        notes=np.stack([piece.notes for piece in composed]).astype(np.int8),
        drums=np.stack([piece.drumming for piece in composed]).astype(np.int8),
        summaries=np.stack([_summaries(piece) for piece in composed]).astype(np.float32),
        captions=np.array(captions),
    )


def _summaries(piece: Piece) -> np.ndarray:
    clips = whole_clips(piece.samples, SAMPLE_RATE_HZ)
    return np.stack([spectrum.summary(spectrum.log_bands(clip)) for clip in clips])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--worker", default="0/1", help="this one of so many, as k/n")
    options = parser.parse_args(arguments)
    worker, workers = map(int, options.worker.split("/"))
    started = time.monotonic()
    for shard in range(worker, options.shards, workers):
        if shard_path(shard).exists():
            continue
        if time.monotonic() - started > options.minutes * 60:
            break
        make(shard).save(shard)
        print(f"shard {shard} after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
