"""The rows of the compiled batch and who plays in them.

Invariant: a stream owns at most one slot, and a slot at most one stream; moving streams
between batches keeps their order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from magenta_bento.conditioning import MASKED, SIZE
from magenta_bento.engine.stream import Stream
from magenta_bento.model.protocol import StepInputs


class Slots:
    """A fixed list of places, one a row.

    Args:
      size: Rows of the batch.
    """

    def __init__(self, size: int) -> None:
        self.rows: list[Stream | None] = [None] * size

    def __len__(self) -> int:
        return len(self.rows)

    def occupied(self) -> Iterator[tuple[int, Stream]]:
        return ((row, stream) for row, stream in enumerate(self.rows) if stream is not None)

    @property
    def busy(self) -> int:
        return sum(1 for _ in self.occupied())

    def free_row(self) -> int | None:
        """The first free row."""
        return next((row for row, stream in enumerate(self.rows) if stream is None), None)

    def take(self, row: int, stream: Stream) -> None:
        """Gives a row to a stream.

        Raises:
          RuntimeError: Somebody owns it.
        """
        if self.rows[row] is not None:
            raise RuntimeError(f"slot {row} is taken")
        self.rows[row] = stream

    def release(self, row: int) -> None:
        self.rows[row] = None

    def compacted(self, size: int) -> tuple[Slots, list[int]]:
        """The same streams in another number of rows, and the row each of them comes from."""
        moved = Slots(size)
        origin = []
        for new_row, (old_row, stream) in enumerate(self.occupied()):
            moved.take(new_row, stream)
            origin.append(old_row)
        return moved, origin

    def inputs(self, held: Collection[int], frames: int) -> StepInputs:
        """What the next step reads; freshly made, since a device may still read the last one.

        Args:
          held: Rows that stand still; those of nobody may do as they like.
          frames: By how many frames.
        """
        size = len(self)
        tokens = np.full((size, frames, SIZE), MASKED, np.int32)
        temperature = np.ones((size, frames), np.float32)
        top_k = np.ones((size, frames), np.int32)
        active = np.ones(size, np.bool_)
        active[list(held)] = False
        for row, stream in self.occupied():
            if active[row]:
                stream.timeline.read(stream.next_row, tokens[row], temperature[row], top_k[row])
        return StepInputs(tokens, temperature, top_k, active)
