"""What a live stream is steered by, and how one steering fades into another.

A fade interpolates style embeddings in steps, and each step becomes the conditioning from its
frame on (a plan). Everything else changes at once, at the first frame of the fade.

Invariant: the last step of a plan is exactly the new steering.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from magenta_bento import conditioning
from magenta_bento.audio.formats import FRAMES_PER_SECOND
from magenta_bento.conditioning import Conditioning
from magenta_bento.engine.spec import Plan
from magenta_bento.prompting import Prompter
from magenta_bento.style import Embedding, StyleTokens

FADE_STEP_FRAMES = 5  # 0.2 s: finer steps give the same tokens more often than not


@dataclass(frozen=True, eq=False)
class Steering:
    """The settings of a live stream, complete.

    Attributes:
      style: float32 [768].
      temperature: Above or equal 0.
      top_k: 1 to 1,024.
      guidance: Of the style, -1 to 7.
      drums: True plays drums, False none, None leaves it to the model.
      notes: MIDI pitches that sound, all others do not; None leaves them to the model.
    """

    style: Embedding
    temperature: float = conditioning.DEFAULT_TEMPERATURE
    top_k: int = conditioning.DEFAULT_TOP_K
    guidance: float = conditioning.DEFAULT_GUIDANCE
    drums: bool | None = None
    notes: Sequence[int] | None = None

    def conditioning(self, tokens: StyleTokens) -> Conditioning:
        drums = conditioning.NOT_GIVEN if self.drums is None else int(self.drums)
        controls = conditioning.Controls(
            conditioning.Guidance(style=self.guidance), conditioning.sounding(self.notes), drums
        )
        return conditioning.build(tokens, controls, self.temperature, self.top_k)


@dataclass(frozen=True, eq=False)
class Fade:
    """From one steering to another over some frames; 0 frames is a cut."""

    old: Steering
    new: Steering
    frames: int

    def style_at(self, frame: int) -> Embedding:
        """The style so many frames after the fade began, float32 [768]."""
        if frame >= self.frames:
            return self.new.style
        share = max(0, frame) / self.frames
        mixed: Embedding = (1 - share) * self.old.style + share * self.new.style
        return mixed.astype(self.new.style.dtype)

    async def plan(self, prompter: Prompter) -> Plan:
        """The conditioning from each step's frame on, counted from the fade's beginning."""
        offsets = [*range(0, self.frames, FADE_STEP_FRAMES), self.frames]
        tokens = await prompter.each_tokens([self.style_at(offset) for offset in offsets])
        return tuple(
            (offset, self.new.conditioning(of)) for offset, of in zip(offsets, tokens, strict=True)
        )


def fade(old: Steering | None, new: Steering, ramp_s: float) -> Fade:
    """A fade of so many seconds; a cut where there is nothing to fade from."""
    if old is None:
        return Fade(new, new, 0)
    return Fade(old, new, math.ceil(ramp_s * FRAMES_PER_SECOND))


def at(fading: Fade, frame: int) -> Steering:
    """The steering that is heard so many frames after a fade began."""
    return dataclasses.replace(fading.new, style=fading.style_at(frame))
