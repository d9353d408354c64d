"""What the language model learns from: music in a style, by hand, and in two styles at once.

Most is music as a style has it. Some is played by hand, so that notes that are given are heeded
whatever the style would play; some is two styles played at once, the louder the greater its
weight, so that a blend of two prompts is some of both and not one of them.

Invariant: a take depends on its number alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tools.demo_model.music.piece import Piece, Style, compose
from tools.demo_model.music.styles import StyleHint, draw

FIRST_SEED = 1_000_000
FRAMES = 600  # 24 s
ALONE = ("drums only", "bass only", "lead solo", "pads only", "piano solo", "keys solo")
ALONE_CHANCE = 0.5  # of each of two styles: what is in a blend is best heard of two sounds
WEIGHTS = (0.25, 0.5, 0.75)  # of the first of two styles; as often any from the least to the most


@dataclasses.dataclass(frozen=True, eq=False)
class Take:
    """Music, and what is asked for when it is.

    Attributes:
      samples: float32 [FRAMES * 1920, 2].
      notes: int8 [FRAMES, 128], as a :class:`Piece` has them.
      drums: int8 [FRAMES], 1 in bars that drums play in.
      styles: What it sounds like: a piece in each of two styles, the same twice if it is one.
      weights: Of the two, float; they add up to 1.
      by_hand: Whether its notes are the player's and not the style's.
    """

    samples: np.ndarray
    notes: np.ndarray
    drums: np.ndarray
    styles: tuple[Piece, Piece]
    weights: tuple[float, float] = (0.5, 0.5)
    by_hand: bool = False


def plain(number: int) -> Take:
    """Music as a style has it."""
    piece = compose(FIRST_SEED + number, FRAMES)
    return Take(piece.samples, piece.notes, piece.drumming, (piece, piece))


def by_hand(number: int) -> Take:
    """A keyboard in the sounds of a style, and its drums."""
    seed = FIRST_SEED + number
    rng = np.random.default_rng((seed, 4))
    style = draw(rng)
    while not style.parts:
        style = draw(rng)
    played = compose(seed, FRAMES, style, by_hand=True)
    usual = compose(seed, FRAMES, style)
    return Take(played.samples, played.notes, played.drumming, (usual, usual), by_hand=True)


def blended(number: int) -> Take:
    """Two styles at once, in one tempo and key, at constant power."""
    seed = FIRST_SEED + number
    rng = np.random.default_rng((seed, 6))
    first, second = _either(rng), _either(rng)
    while second.family == first.family or second.beats != first.beats:
        first, second = _either(rng), _either(rng)
    first_piece = compose(seed, FRAMES, first)
    second_piece = compose(seed, FRAMES, _beside(second, first))
    weight = rng.choice(WEIGHTS) if rng.random() < 0.5 else rng.uniform(WEIGHTS[0], WEIGHTS[-1])
    weights = (float(weight), 1 - float(weight))
    gains = np.array(weights) / np.hypot(*weights)
    pieces = (first_piece, second_piece)
    samples = sum(gain * piece.samples for gain, piece in zip(gains, pieces, strict=True))
    return Take(
        samples=np.clip(samples, -1, 1).astype(np.float32),
        notes=np.maximum(first_piece.notes, second_piece.notes),
        drums=np.maximum(first_piece.drumming, second_piece.drumming),
        styles=pieces,
        weights=weights,
    )


def _either(rng: np.random.Generator) -> Style:
    return draw(rng, StyleHint(ALONE) if rng.random() < ALONE_CHANCE else None)


def _beside(style: Style, other: Style) -> Style:
    """The style in the other's tempo and harmony."""
    swing = "straight" if other.sixteenth_frames == 2 else style.swing
    return dataclasses.replace(
        style,
        sixteenth_frames=other.sixteenth_frames,
        key=other.key,
        scale=other.scale,
        progression=other.progression,
        swing=swing,
    )
