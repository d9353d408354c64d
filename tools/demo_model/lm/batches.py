"""Windows of pieces as the network trains on them.

The past tells nearly everything about the next frame, and a network that only looks there never
learns to heed what is asked for. So windows begin where a piece does, with no frame before, as a
stream does; they jump from piece to piece, as when a listener changes the prompt; they go astray,
into music that nobody asked for, and back, as a sampler should; past frames are blurred, some of
them wholly, as a sampler's own go wrong; and the frames after a beginning, a jump or a return are
learnt from more often.

Invariant: batch number n is a function of the material and (seed, n).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from magenta_bento import conditioning
from tools.demo_model.lm import conditions
from tools.demo_model.lm.network import CODES, LEVELS
from tools.demo_model.lm.pieces import Pieces
from tools.demo_model.lm.wishes import BY_SOUND

FROM_THE_START = 0.5
JUMPS = (0.3, 0.4, 0.2, 0.1)  # how often none, one, two and so on in a window
ASTRAY, MOST_TURNS = 0.5, 5  # how often a window goes astray, and how many times there or back
# Long notes and one frame over and over are where a sampler gets caught most easily.
ASTRAY_BY_HAND, ASTRAY_STUCK = 0.5, 0.25
ASKED_BY_SOUND = 0.4
WRONG_FRAMES = 0.03  # share of past frames that are another of the window
# How often, what share of the past frames, and from which level on at the least: their codes
# become any. The last codes are near to noise, but tell a piece like a finger its owner.
BLURS = ((0.15, 0.0, 11), (0.3, 0.4, 2), (0.25, 1.0, 1), (0.3, 0.8, 0))
EARLY_FRAMES, EARLY_WEIGHT = 25, 5.0  # after a beginning, a jump or a return
ONSET_WEIGHT = 2.5  # of a frame in which a note begins: there the given notes tell most
# Silence after silence is the one thing that is easy to tell, and a cold sampler's trap.
SILENT_WEIGHT, SILENT_LEVELS = 0.2, 3
NEVER = 1e-9  # the weight of what is not to be learnt from


@dataclasses.dataclass(frozen=True)
class Material:
    """What batches are drawn from.

    Attributes:
      pieces: P pieces.
      wishes: The ways to ask for each: style tokens int [P, ways, 12].
      silence: int [12], the codes of a silent frame.
    """

    pieces: Pieces
    wishes: np.ndarray
    silence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
    """B windows of T frames; ``chosen`` are the frames to learn from. See ``objective.loss``."""

    previous: np.ndarray
    fresh: np.ndarray
    conditioning: np.ndarray
    codes: np.ndarray
    chosen: np.ndarray


def draw(
    material: Material, seed: int, number: int, *, windows: int, frames: int, share: float
) -> Batch:
    """Batch ``number``.

    Args:
      material: What to draw from.
      seed: Of the whole training.
      number: Of the batch.
      windows: B.
      frames: T.
      share: Of the B * T frames, how many to learn from.
    """
    rng = np.random.RandomState((seed * 1_000_003 + number) % 2**32)
    rows = [_window(material, frames, rng) for _ in range(windows)]
    *inputs, weights = (np.stack(parts) for parts in zip(*rows, strict=True))
    # The largest of random keys: a weighted draw without replacement (Efraimidis 2006).
    keys = np.log(rng.uniform(size=weights.size)) / weights.ravel()
    chosen = np.sort(np.argsort(-keys)[: round(weights.size * share)]).astype(np.int32)
    return Batch(*inputs, chosen)


def _window(
    material: Material, frames: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All but the last field of a batch, and how much each frame is to be learnt from."""
    jumps = rng.choice(len(JUMPS), p=JUMPS)
    bounds = [0, *np.sort(rng.randint(1, frames, size=jumps)).tolist(), frames]
    parts = [_stretch(material, end - begin, rng) for begin, end in itertools.pairwise(bounds)]
    codes = np.concatenate([part[0] for part in parts])
    labels = conditions.joined([part[1] for part in parts])
    before = parts[0][2]
    fresh = np.zeros(frames, bool)
    fresh[0] = before is None
    astray = _astray(frames, bool(fresh[0]), rng)
    codes[astray] = _unasked(material, frames, rng)[astray]
    first = codes[:1] if before is None else before[None]
    previous = _mistaken(np.concatenate([first, codes[:-1]]), rng)
    weights = np.ones(frames)
    returns = np.flatnonzero(astray[:-1] & ~astray[1:]) + 1
    for begin in (*bounds[0 if fresh[0] else 1 : -1], *returns):
        weights[begin : begin + EARLY_FRAMES] = EARLY_WEIGHT
    silent = (codes == material.silence)[:, :SILENT_LEVELS].all(axis=1)
    weights[1:][silent[1:] & silent[:-1]] = SILENT_WEIGHT
    onsets = (labels.notes == conditioning.ONSET).any(axis=1)
    weights[onsets] = np.maximum(weights[onsets], ONSET_WEIGHT)
    weights[astray] = NEVER
    _, other, _ = _stretch(material, frames, rng)
    return previous, fresh, conditions.draw(labels, other, rng), codes, weights


def _astray(frames: int, fresh: bool, rng: np.random.RandomState) -> np.ndarray:
    """bool [T], the frames of which the music is not what is asked for; a beginning is."""
    if rng.uniform() >= ASTRAY:
        return np.zeros(frames, bool)
    turns = np.sort(rng.randint(1, frames, size=rng.randint(1, MOST_TURNS + 1)))
    turned = np.searchsorted(turns, np.arange(frames), side="right")
    return (turned + (0 if fresh else rng.randint(2))) % 2 == 1


def _unasked(material: Material, frames: int, rng: np.random.RandomState) -> np.ndarray:
    """Codes int32 [T, 12] of any music, or of one frame over and over."""
    pieces = material.pieces
    among = np.arange(len(pieces))
    if rng.uniform() < ASTRAY_BY_HAND:
        among = among[pieces.by_hand]
    piece = rng.choice(among)
    start = rng.randint(pieces.codes.shape[1] - frames + 1)
    codes = pieces.codes[piece, start : start + frames].astype(np.int32)
    if rng.uniform() < ASTRAY_STUCK:
        codes[:] = codes[rng.randint(frames)]
    return codes


def _stretch(
    material: Material, frames: int, rng: np.random.RandomState
) -> tuple[np.ndarray, conditions.Labels, np.ndarray | None]:
    """Codes int32 [T, 12], their labels, and the codes before them unless a piece starts."""
    pieces = material.pieces
    piece = rng.randint(len(pieces))
    latest = pieces.codes.shape[1] - frames
    start = 0 if rng.uniform() < FROM_THE_START else rng.randint(1, latest + 1)
    here = slice(start, start + frames)
    ways = material.wishes.shape[1]
    by_sound = rng.uniform() < ASKED_BY_SOUND
    way = rng.randint(BY_SOUND) if by_sound else rng.randint(BY_SOUND, ways)
    labels = conditions.Labels(
        style=np.broadcast_to(material.wishes[piece, way], (frames, LEVELS)),
        notes=pieces.notes[piece, here],
        drums=pieces.drums[piece, here],
        by_hand=np.full(frames, pieces.by_hand[piece]),
    )
    before = pieces.codes[piece, start - 1].astype(np.int32) if start else None
    return pieces.codes[piece, here].astype(np.int32), labels, before


def _mistaken(codes: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    frames = len(codes)
    wrong = rng.uniform(size=frames) < WRONG_FRAMES
    mistaken = np.where(wrong[:, None], codes[rng.randint(frames, size=frames)], codes)
    often, shares, least = np.array(BLURS).T
    kind = rng.choice(len(BLURS), p=often)
    first_blurred = np.where(
        rng.uniform(size=frames) < shares[kind],
        rng.randint(int(least[kind]), LEVELS, size=frames),
        LEVELS,
    )
    if least[kind] == 0:
        first_blurred[first_blurred < LEVELS] = 0
    blurred = np.arange(LEVELS) >= first_blurred[:, None]
    return np.where(blurred, rng.randint(CODES, size=codes.shape), mistaken).astype(np.int32)
