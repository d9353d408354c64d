"""What is asked of the engine, and in which terms.

Invariant: a spec that exists can be served; its buffer is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from magenta_bento.timeline import Timeline

# The codec makes a frame's audio when it has the codes of the next one too. So a fresh stream's
# first frame is silence, and new codes can be heard from the frame before their own.
LOOKAHEAD_FRAMES = 1


@dataclass(frozen=True)
class StreamSpec:
    """What is asked of the engine.

    Attributes:
      timeline: What each frame is conditioned on, until it is replaced.
      seed: Of the stream's own random key; 0 to 2^32 - 1.
      frames: How many audible frames; None for as long as somebody listens.
      lead_frames: How many unread frames may lie ready before the stream stands still; None
        for all of them, which only a stream with an end may ask for.
      client: Who asks; waiting streams take turns by client.
      live: Whether somebody listens while it is made; such streams wait before others.
    """

    timeline: Timeline
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
