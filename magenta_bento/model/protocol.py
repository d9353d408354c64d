"""What the engine asks of a model: a fixed batch of independent rows that steps in frames.

Invariant: a row's audio depends on its seed and its own conditioning alone, whatever the rows
beside it hold, and a row that is not active in a step is not changed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

State = Any  # a pytree on the device whose leaves all lead with the batch dimension


@dataclass(frozen=True)
class StepInputs:
    """What one step reads, a row a slot.

    Each of its F frames, 1 to the model's ``max_frames``, reads conditioning of its own.

    Attributes:
      tokens: int32 [B, F, 144].
      temperature: float32 [B, F].
      top_k: int32 [B, F].
      active: bool [B]; the others stand still. Best all true: rows of nobody may advance.
    """

    tokens: NDArray[np.int32]
    temperature: NDArray[np.float32]
    top_k: NDArray[np.int32]
    active: NDArray[np.bool_]

    @property
    def frames(self) -> int:
        """By how many frames the active rows advance."""
        return int(self.tokens.shape[1])


class Audio(Protocol):
    """A step's audio, perhaps still being computed."""

    def fetch(self) -> NDArray[np.int16]:
        """Waits; int16 [B, frames * 1920, 2]. What failed on the device raises here."""


class Model(Protocol):
    """A music model that makes many streams at once.

    ``insert``, ``resize`` and ``step`` use up the state they are given and return the next.
    """

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The batch sizes that a state can have, ascending."""

    @property
    def max_frames(self) -> int:
        """The most frames one step can advance."""

    def init_state(self, batch_size: int) -> State:
        """A batch of rows that hold nothing worth hearing yet."""

    def insert(self, state: State, row: int, seed: int) -> State:
        """Puts a fresh stream, with its own random key, into a row."""

    def resize(self, state: State, rows: Sequence[int], batch_size: int) -> State:
        """Moves ``rows`` to rows 0, 1, … of a batch of another size."""

    def step(self, state: State, inputs: StepInputs) -> tuple[State, Audio]:
        """Advances the active rows; returns without waiting for the audio."""
