"""Style tokens and controls to what the model reads for a frame.

Pure functions that make int32 [T, 144] rows. The layout is upstream's
(``MagentaRT2System._build_conditioning``): 12 style tokens, 128 notes, 1 drums, then the guidance
bins of style, notes and drums; each value is stored with :data:`TOKEN_OFFSET` added.

Invariant: each token is one of its own channel's embeddings. Upstream clamps guidance to 7, whose
bin lies one beyond the channel's last embedding; here it is clamped to the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from magenta_rt import config as upstream
from numpy.typing import ArrayLike, NDArray

from magenta_bento.controls import (
    HIGHEST_DRUMS_GUIDANCE,
    HIGHEST_GUIDANCE,
    LOWEST_GUIDANCE,
    PITCHES,
    STYLE_LEVELS,
    Controls,
    Drums,
    NotesMode,
)

Int32 = NDArray[np.int32]

NOT_GIVEN = -1
OFF, SUSTAINED, ONSET, MODEL_DECIDES = 0, 1, 2, 3  # of a note that is given
SIZE = STYLE_LEVELS + PITCHES + 1 + 3
TOKEN_OFFSET = upstream.NUM_RESERVED_TOKENS + 1  # reserved tokens, then the dropout token
MASKED = NOT_GIVEN + TOKEN_OFFSET

_DRUMS = {Drums.auto: NOT_GIVEN, Drums.off: 0, Drums.on: 1}


def rows(style_tokens: ArrayLike, controls: Controls | None = None) -> Int32:
    """What the model reads for each of T frames that share their controls.

    Args:
      style_tokens: int [T, 12], 0 to 1023 each, or -1 for not given.
      controls: Upstream's defaults if None.

    Returns:
      int32 [T, 144].

    Raises:
      ValueError: There are not 12 style tokens.
    """
    controls = controls or Controls()
    style = np.array(style_tokens, np.int32)
    style[..., controls.style_levels :] = NOT_GIVEN
    bins = guidance_bins(controls.guidance, controls.notes_guidance, controls.drums_guidance)
    return assemble(style, note_states(controls), _DRUMS[controls.drums], bins)


def assemble(
    style_tokens: ArrayLike, notes: ArrayLike, drums: ArrayLike, bins: Sequence[int]
) -> Int32:
    """Puts the parts of T rows together; parts without a T are the same for each row.

    Args:
      style_tokens: int [T, 12], 0 to 1023 each, or -1 for not given.
      notes: int [T, 128] or [128]: -1 not given, 0 off, 1 sustained, 2 onset, 3 model decides.
      drums: int [T] or a number: -1 not given, 0 none, 1 play.
      bins: Of the guidance of style, notes and drums.

    Returns:
      int32 [T, 144].

    Raises:
      ValueError: A part has another length.
    """
    style, pitches = np.asarray(style_tokens, np.int32), np.asarray(notes, np.int32)
    if style.ndim != 2 or style.shape[1] != STYLE_LEVELS or pitches.shape[-1] != PITCHES:
        raise ValueError(
            f"expected [T, {STYLE_LEVELS}] style tokens and [T, {PITCHES}] notes, got"
            f" {list(style.shape)} and {list(pitches.shape)}"
        )
    made = np.empty((len(style), SIZE), np.int32)
    made[:, :STYLE_LEVELS] = style
    made[:, STYLE_LEVELS : STYLE_LEVELS + PITCHES] = pitches
    made[:, STYLE_LEVELS + PITCHES] = drums
    made[:, -len(bins) :] = bins
    return made + np.int32(TOKEN_OFFSET)


def note_states(controls: Controls) -> Int32:
    """The state of each pitch while the controls' notes are held, int32 [128].

    Whether a held note is struck again is left to the model.
    """
    states = np.full(PITCHES, NOT_GIVEN, np.int32)
    if controls.notes is None:
        return states
    held = np.array(sorted(set(controls.notes)), np.int32)
    if controls.notes_mode is NotesMode.strict:
        states[:] = OFF
    elif controls.notes_width and len(held):
        distance = np.abs(np.arange(PITCHES)[:, None] - held).min(axis=1)
        states[distance <= controls.notes_width] = OFF
    states[held] = MODEL_DECIDES
    return states


def guidance_bins(style: float, notes: float, drums: float) -> list[int]:
    """The nearest bins: in steps of 0.2 for style and notes, of 1 for drums."""
    fine = upstream.CFG_CONDITIONING_MUSICCOCA_NOTES.step
    coarse = upstream.CFG_CONDITIONING_DRUMS.step
    return [
        _bin(style, fine, HIGHEST_GUIDANCE),
        _bin(notes, fine, HIGHEST_GUIDANCE),
        _bin(drums, coarse, HIGHEST_DRUMS_GUIDANCE),
    ]


def _bin(value: float, step: float, highest: float) -> int:
    return round((min(max(value, LOWEST_GUIDANCE), highest) - LOWEST_GUIDANCE) / step)
