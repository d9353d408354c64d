"""What is asked of the engine, and in which terms.

Invariant: a spec that exists can be served; its buffer is bounded.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from magenta_bento.audio.formats import FRAME_S as FRAME_S
from magenta_bento.conditioning import Conditioning

Plan = Sequence[tuple[int, Conditioning]]  # what holds from which frame on; the first is 0

MAX_SEED = 2**32 - 1
WARM_UP_FRAMES = 1  # the codec looks one frame ahead: a fresh stream's first frame is silence


@dataclass(frozen=True)
class StreamSpec:
    """What is asked of the engine.

    Attributes:
      conditioning: What every frame is conditioned on, until it is replaced.
      seed: Of the stream's own random key; 0 to 2^32 - 1.
      frames: How many audible frames; None for as long as somebody listens.
      lead_frames: How many unread frames may lie ready before the stream stands still; None
        for all of them, which only a stream with an end may ask for.
      client: Who asks; waiting streams take turns by client.
      live: Whether somebody listens while it is made; such streams wait before others.
    """

    conditioning: Conditioning
    seed: int
    frames: int | None
    lead_frames: int | None = None
    client: str = ""
    live: bool = False

    def __post_init__(self) -> None:
        if self.frames is None and self.lead_frames is None:
            raise ValueError("an endless stream needs lead_frames: its buffer must be bounded")
        if self.lead_frames is not None and self.lead_frames < 1:
            raise ValueError(f"lead_frames must be at least 1, got {self.lead_frames}")


def seed_or_random(seed: int | None) -> int:
    """The seed itself, or a fresh random one in place of None."""
    return secrets.randbelow(MAX_SEED + 1) if seed is None else seed
