"""What a stretch of music is labelled with in training: all of it, some of it, or a lie.

A listener gives a style and perhaps notes or drums, and says how far each is to be heeded. So
that the model learns all of these cases, labels are left out at random; and the lower the
guidance, the more often they are some other piece's: guidance becomes how far to trust them.

Invariant: what is drawn depends on the labels and the random state alone, and looks exactly as
served (``magenta_bento.conditioning``): int32 [T, 144], seven added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from magenta_bento import conditioning
from magenta_bento.conditioning import MODEL_DECIDES, NOT_GIVEN, OFF, SIZE, TOKEN_OFFSET
from magenta_bento.controls import (
    HIGHEST_DRUMS_GUIDANCE,
    HIGHEST_GUIDANCE,
    LOWEST_GUIDANCE,
    PITCHES,
    STYLE_LEVELS,
    Controls,
)

STYLE_DROPPED, NOTES_DROPPED, DRUMS_DROPPED = 0.15, 0.4, 0.45
# Each label is trusted fully from its default guidance on, and not at all at 0.
DEFAULTS = Controls()
STYLE_TRUSTED = DEFAULTS.guidance
NOTES_TRUSTED = DEFAULTS.notes_guidance
DRUMS_TRUSTED = DEFAULTS.drums_guidance
DEFAULT_SHARE = 0.6  # of guidances that are the default, the others uniform
ONSETS_LEFT_OPEN = 0.5  # how often "model decides" stands for sustained and onset
PITCHES_HIDDEN, ONLY_HELD = 0.15, 0.25  # how often some pitches, or all that are off, are masked
STARTS_LATE = 0.15  # how often notes or drums are given only from some frame on


@dataclasses.dataclass(frozen=True)
class Labels:
    """Of T frames.

    Attributes:
      style: int [T, 12], 0 to 1023.
      notes: int [T, 128], 0 off, 1 sustained, 2 onset.
      drums: int [T], 0 or 1.
      by_hand: bool [T], where the notes are a player's. They are always given, and true: without
        them the style alone would ask for such music, which no style does.
    """

    style: np.ndarray
    notes: np.ndarray
    drums: np.ndarray
    by_hand: np.ndarray


def joined(parts: Sequence[Labels]) -> Labels:
    """One after the other."""
    return Labels(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Labels)
        )
    )


def draw(own: Labels, other: Labels, rng: np.random.RandomState) -> np.ndarray:
    """The conditioning of the frames that ``own`` describes, int32 [T, 144].

    Args:
      own: The music's labels.
      other: As long, of some other piece.
      rng: Where chance comes from.
    """
    style_guidance = _guidance(STYLE_TRUSTED, HIGHEST_GUIDANCE, rng)
    notes_guidance = _guidance(NOTES_TRUSTED, HIGHEST_GUIDANCE, rng)
    drums_guidance = _guidance(DRUMS_TRUSTED, HIGHEST_DRUMS_GUIDANCE, rng)
    style = _trusted(own.style, other.style, style_guidance / STYLE_TRUSTED, rng)
    notes = _trusted(own.notes, other.notes, notes_guidance / NOTES_TRUSTED, rng)
    drums = _trusted(own.drums, other.drums, drums_guidance / DRUMS_TRUSTED, rng)

    frames = len(own.drums)
    tokens = np.full((frames, SIZE), NOT_GIVEN, np.int32)
    if rng.uniform() >= STYLE_DROPPED:
        tokens[:, :STYLE_LEVELS] = style
    given = own.by_hand.copy()
    if rng.uniform() >= NOTES_DROPPED:
        given[_first_frame(frames, rng) :] = True
    notes = np.where(own.by_hand[:, None], own.notes, notes)
    shown = _partly(notes, own.by_hand, rng)
    tokens[given, STYLE_LEVELS : STYLE_LEVELS + PITCHES] = shown[given]
    if rng.uniform() >= DRUMS_DROPPED:
        first = _first_frame(frames, rng)
        tokens[first:, STYLE_LEVELS + PITCHES] = drums[first:]
    tokens[:, -3:] = conditioning.guidance_bins(style_guidance, notes_guidance, drums_guidance)
    return tokens + TOKEN_OFFSET


def _guidance(default: float, highest: float, rng: np.random.RandomState) -> float:
    return default if rng.uniform() < DEFAULT_SHARE else rng.uniform(LOWEST_GUIDANCE, highest)


def _trusted(
    own: np.ndarray, other: np.ndarray, trust: float, rng: np.random.RandomState
) -> np.ndarray:
    return own if rng.uniform() < trust else other


def _first_frame(frames: int, rng: np.random.RandomState) -> int:
    return rng.randint(frames) if rng.uniform() < STARTS_LATE else 0


def _partly(notes: np.ndarray, by_hand: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Notes as a listener might give them: without onsets, or not all pitches."""
    notes = notes.astype(np.int32)
    held = (notes != OFF).any(axis=0)
    played = (notes[by_hand] != OFF).any(axis=0)
    if rng.uniform() < ONSETS_LEFT_OPEN:
        notes[notes != OFF] = MODEL_DECIDES
    kind = rng.uniform()
    if kind < PITCHES_HIDDEN:
        low, high = np.sort(rng.randint(PITCHES, size=2))
        hidden = np.zeros(PITCHES, bool)
        hidden[low:high] = True
        hidden = hidden if rng.uniform() < 0.5 else ~hidden
        notes[:, hidden & ~played] = NOT_GIVEN
    elif kind < PITCHES_HIDDEN + ONLY_HELD:
        notes[:, ~held] = NOT_GIVEN
    return notes
