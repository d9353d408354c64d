"""What a frame is conditioned on, as the model reads it.

Pure functions from style tokens, notes, drums and guidance to the int32 [144] vector of one
frame. Its layout is upstream's (``MagentaRT2System._build_conditioning``): 12 style tokens,
128 notes, 1 drums, then the guidance bins of style, notes and drums.

Invariant: a :class:`Conditioning` is complete and valid, so that the engine never looks inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from magenta_rt import config as upstream
from numpy.typing import NDArray

Int32 = NDArray[np.int32]

NOT_GIVEN = -1
OFF, SUSTAINED, ONSET, MODEL_DECIDES = 0, 1, 2, 3  # of a note that is given
STYLE_TOKENS = upstream.MUSICCOCA.rvq_truncation_level
NOTES = upstream.PIANOROLL_WITH_ONSETS.rvq_truncation_level
SIZE = STYLE_TOKENS + NOTES + 1 + 3
TOKEN_OFFSET = upstream.NUM_RESERVED_TOKENS + 1  # reserved tokens, then the dropout token

DEFAULT_TEMPERATURE = 1.3
DEFAULT_TOP_K = 40
DEFAULT_GUIDANCE = 3.0
GUIDANCE_RANGE = (-1.0, 7.0)


@dataclass(frozen=True)
class Guidance:
    """How strongly each input steers, as training labelled it; -1 to 7.

    The model reads these as tokens: guidance costs no second pass.
    """

    style: float = DEFAULT_GUIDANCE
    notes: float = 1.0
    drums: float = 1.0

    def bins(self) -> list[int]:
        """The tokens, nearest bin: steps of 0.2 for style and notes, of 1 for drums."""
        fine = upstream.CFG_CONDITIONING_MUSICCOCA_NOTES
        coarse = upstream.CFG_CONDITIONING_DRUMS
        return [_bin(self.style, fine), _bin(self.notes, fine), _bin(self.drums, coarse)]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One stream's conditioning until it is replaced.

    Attributes:
      tokens: int32 [144], as the model reads them.
      temperature: Scale of the sampling noise; above 0.
      top_k: How many of the 1,024 codes of a level may be drawn; at least 1.
    """

    tokens: Int32
    temperature: float = DEFAULT_TEMPERATURE
    top_k: int = DEFAULT_TOP_K


@dataclass(frozen=True)
class Controls:
    """What steers beside the style.

    Attributes:
      notes: 128 MIDI pitches, each -1 not given, 0 off, 1 sustained, 2 onset, 3 model decides.
      drums: -1 not given, 0 none, 1 play.
    """

    guidance: Guidance = field(default_factory=Guidance)
    notes: Sequence[int] = (NOT_GIVEN,) * NOTES
    drums: int = NOT_GIVEN


def sounding(pitches: Iterable[int] | None) -> tuple[int, ...]:
    """The notes of :class:`Controls` of a player who holds these MIDI pitches and no others.

    Whether a held note is struck again is left to the model; None leaves all notes to it.
    """
    held = frozenset(pitches or ())
    others = NOT_GIVEN if pitches is None else OFF
    return tuple(MODEL_DECIDES if pitch in held else others for pitch in range(NOTES))


def build(
    style_tokens: Int32,
    controls: Controls | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    top_k: int = DEFAULT_TOP_K,
) -> Conditioning:
    """Puts one frame's conditioning together.

    Args:
      style_tokens: int32 [12], 0 to 1023 each, or -1 for not given.
      controls: Notes, drums and guidance; upstream's defaults if None.
      temperature: Above 0.
      top_k: At least 1.

    Raises:
      ValueError: A part has another length.
    """
    controls = controls or Controls()
    if len(style_tokens) != STYLE_TOKENS or len(controls.notes) != NOTES:
        raise ValueError(
            f"expected {STYLE_TOKENS} style tokens and {NOTES} notes, got"
            f" {len(style_tokens)} and {len(controls.notes)}"
        )
    parts: list[Any] = [*style_tokens, *controls.notes, controls.drums, *controls.guidance.bins()]
    tokens = np.asarray(parts, np.int32) + np.int32(TOKEN_OFFSET)
    tokens.setflags(write=False)
    return Conditioning(tokens, temperature, top_k)


def _bin(value: float, config: upstream.TokensConfig) -> int:
    low, high = GUIDANCE_RANGE
    bin_: int = round((min(max(value, low), high) - low) / config.step)
    return bin_
