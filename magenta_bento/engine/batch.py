"""The batch: the model's state, and the streams whose rows are in it.

The model is compiled for a few batch sizes. The batch grows as soon as a stream needs a row, and
shrinks only after a while, since each move costs a copy of the state.

Invariant: the slots tell, row for row, whose state it is: whatever moves one moves the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from magenta_bento.engine.slots import Slots
from magenta_bento.engine.stream import Stream
from magenta_bento.model.protocol import Audio, Model

SHRINK_AFTER_STEPS = 25  # a batch that was too large for so long is made smaller


@dataclass(frozen=True)
class Dispatched:
    """A step whose audio has not been fetched yet."""

    audio: Audio
    owners: Sequence[tuple[int, Stream]]  # active rows and who owned them then
    frames: int
    started: float


class Batch:
    """The compiled batch: its state, and which stream owns which row.

    Changed by the device thread alone; others may look at who plays.

    Args:
      model: What it is a batch of.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.reset()

    def reset(self) -> None:
        """Starts again with a fresh state and nobody in it."""
        self._slots = Slots(self._model.batch_sizes[0])
        self._state = self._model.init_state(len(self._slots))
        self._steps_too_large = 0

    def __len__(self) -> int:
        """Rows, free ones too."""
        return len(self._slots)

    @property
    def capacity(self) -> int:
        """The most streams that it can hold."""
        return self._model.batch_sizes[-1]

    @property
    def busy(self) -> int:
        return self._slots.busy

    def occupied(self) -> Iterator[tuple[int, Stream]]:
        return self._slots.occupied()

    def place(self, stream: Stream) -> None:
        """Gives a row to a stream, in a larger batch if need be.

        Raises:
          RuntimeError: All ``capacity`` rows are taken.
        """
        if self.busy == len(self):
            self._resize(self.busy + 1)
        row = self._slots.free_row()
        if row is None:
            raise RuntimeError(f"all {self.capacity} slots are taken")
        self._state = self._model.insert(self._state, row, stream.seed)
        self._slots.take(row, stream)

    def release(self, row: int) -> None:
        self._slots.release(row)

    def steer(self) -> None:
        """Takes in what listeners changed; whoever was reset begins anew."""
        for row, stream in self.occupied():
            if stream.apply_changes():
                self._state = self._model.insert(self._state, row, stream.seed)

    def step(self) -> Dispatched | None:
        """Advances every stream that is due; None if none is."""
        frames = self._step_length()
        due = [(row, stream) for row, stream in self.occupied() if _due(stream, frames)]
        if not due:
            return None
        started = time.perf_counter()
        goes = {row for row, _ in due}
        held = {row for row, s in self.occupied() if row not in goes and _goes_on(s)}
        inputs = self._slots.inputs(held, frames)
        self._state, audio = self._model.step(self._state, inputs)
        for _, stream in due:
            stream.schedule(frames)
        return Dispatched(audio, due, frames, started)

    def has_due(self) -> bool:
        """Whether a step would advance any stream."""
        return any(_due(stream, 1) for _, stream in self.occupied())

    def shrink_if_oversized(self, waiting: int) -> None:
        """Shrinks, if it has been too large for a while.

        Args:
          waiting: How many are about to need a row.
        """
        wanted = self.busy + waiting
        is_too_large = self._fitting(max(1, wanted)) < len(self)
        self._steps_too_large = self._steps_too_large + 1 if is_too_large else 0
        # With nobody left there is nothing to move, and the next one to come plays alone.
        if self._steps_too_large and (not wanted or self._steps_too_large > SHRINK_AFTER_STEPS):
            self._resize(max(1, self.busy))

    def _step_length(self) -> int:
        """As long as the model can, but no longer than the longest need or the smallest lead."""
        streams = [stream for _, stream in self.occupied()]
        most = self._model.max_frames
        wanted = [most if (n := s.frames_to_schedule) is None else n for s in streams]
        rooms = [r for s in streams if (r := s.buffer_space) is not None and r > 0]
        return max(1, min([most, max(wanted, default=most), *rooms]))

    def _resize(self, streams: int) -> None:
        """Moves to the smallest batch that holds so many streams."""
        slots, rows = self._slots.compacted(self._fitting(streams))
        if len(slots) != len(self):
            self._state = self._model.resize(self._state, rows, len(slots))
            self._slots = slots
        self._steps_too_large = 0

    def _fitting(self, streams: int) -> int:
        return next((b for b in self._model.batch_sizes if b >= streams), self.capacity)


def _goes_on(stream: Stream) -> bool:
    """Whether any step is still to advance this stream."""
    return not stream.cancel_requested and stream.frames_to_schedule != 0


def _due(stream: Stream, frames: int) -> bool:
    """Whether a step of so many frames should advance this stream."""
    return _goes_on(stream) and (stream.buffer_space is None or stream.buffer_space >= frames)
