"""Pieces of music as the language model sees them: tokens and labels, kept in shards.

Invariant: a shard is trained on or held out, as a whole and for good.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tools.demo_model import CACHE

FOLDER = CACHE / "tokens"
HELD_OUT_SHARDS = 8  # every 8th shard is never trained on


@dataclasses.dataclass(frozen=True)
class Pieces:
    """P pieces of F frames.

    Attributes:
      codes: int16 [P, F, 12].
      notes: int8 [P, F, 128].
      drums: int8 [P, F], 1 in bars that drums play in, as someone means who asks for drums.
      by_hand: bool [P], whether the notes are a player's: the style alone does not ask for them.
      weights: float32 [P, 2], of the two styles that it sounds like; the same twice for most.
      summaries: float32 [P, 2, clips, 416], of each style's sound, as the style model hears it.
      captions: str [P, 2, captions], of each style.
    """

    codes: np.ndarray
    notes: np.ndarray
    drums: np.ndarray
    by_hand: np.ndarray
    weights: np.ndarray
    summaries: np.ndarray
    captions: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def save(self, shard: int, folder: Path = FOLDER) -> None:
        """Writes one shard, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"partial_{shard:04d}.npz"
        np.savez(partial, **dataclasses.asdict(self))
        partial.replace(shard_path(shard, folder))

    @classmethod
    def load(cls, held_out: bool, folder: Path = FOLDER) -> Pieces:
        """All shards that are trained on, or all that are not."""
        paths = [p for p in sorted(folder.glob("shard_*.npz")) if is_held_out(p) == held_out]
        shards = []
        for path in paths:
            with np.load(path) as stored:
                shards.append(dict(stored))
        return cls(**{name: np.concatenate([s[name] for s in shards]) for name in shards[0]})


def shard_path(shard: int, folder: Path = FOLDER) -> Path:
    return folder / f"shard_{shard:04d}.npz"


def is_held_out(path: Path) -> bool:
    return int(path.stem.removeprefix("shard_")) % HELD_OUT_SHARDS == 0
