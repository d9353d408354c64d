"""What a live stream is steered by, and how one steering fades into another.

A fade interpolates style embeddings and reads the tokens of each. Everything else changes at once,
at the first frame of the fade.

Invariant: the last row of a fade is exactly the new steering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from magenta_bento import conditioning
from magenta_bento.audio.formats import FRAMES_PER_SECOND
from magenta_bento.controls import STYLE_LEVELS, Controls
from magenta_bento.prompting import Prompter
from magenta_bento.style import Embedding, Style
from magenta_bento.timeline import Timeline, from_rows

# Each takes a look through all code books. Up to 6 s a fade has a style of its own in every frame.
MAX_FADE_STYLES = 150


@dataclass(frozen=True, eq=False)
class Steering:
    """The settings of a live stream, complete."""

    style: Style
    controls: Controls


@dataclass(frozen=True, eq=False)
class Crossfade:
    """From one style to a steering over some frames.

    Attributes:
      old: float32 [768], where it begins.
      new: Where it leads.
      frames: How long it takes; 0 is a cut.
    """

    old: Embedding
    new: Steering
    frames: int

    def embedding_at(self, frame: int) -> Embedding:
        """The style so many frames after the fade began, float32 [768]."""
        if frame >= self.frames:
            return self.new.style.embedding
        share = max(0, frame) / self.frames
        mixed: Embedding = (1 - share) * self.old + share * self.new.style.embedding
        return mixed.astype(np.float32)

    async def timeline(self, prompter: Prompter) -> Timeline:
        """What each frame is conditioned on, counted from the fade's beginning.

        Raises:
          Overloaded: Too many prompts wait.
        """
        step = max(1, math.ceil(self.frames / MAX_FADE_STYLES))
        begins = range(0, self.frames, step)
        # A cut has no styles on its way, and need not wait its turn for any.
        tokens = await prompter.tokens([self.embedding_at(f) for f in begins]) if begins else []
        held = np.diff([*begins, self.frames])  # frames that each of them lasts
        of_frame = np.repeat(np.reshape(tokens, (-1, STYLE_LEVELS)), held, axis=0)
        controls = self.new.controls
        return from_rows(
            conditioning.rows(np.vstack([of_frame, self.new.style.tokens]), controls),
            controls.temperature,
            controls.top_k,
        )


def crossfade(old: Embedding | None, new: Steering, ramp_s: float) -> Crossfade:
    """A fade of so many seconds; a cut where there is nothing to fade from."""
    if old is None:
        return Crossfade(new.style.embedding, new, 0)
    return Crossfade(old, new, math.ceil(ramp_s * FRAMES_PER_SECOND))
