"""What a stream is conditioned on at each of its frames.

Frame t reads row min(t, T - 1), so that a constant is one row. Rows that are the same are stored
once, however often they come back: a timeline is a table of distinct rows, and segments of frames
that each read one of them (run-length encoding).

Invariant: a timeline is complete, valid and never changes; what it holds is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from magenta_bento import conditioning
from magenta_bento.controls import Controls

# An hour has 90,000 frames. The tables take 10 MB and 2 MB when they are full; what would not fit
# is refused when it is made.
MAX_ROWS = 32_768
MAX_SEGMENTS = 131_072


@dataclass(frozen=True, eq=False)
class Timeline:
    """Conditioning as a function of the frame. Made by :func:`constant` and :func:`from_rows`.

    Attributes:
      starts: int64 [S], the first frame of each segment, ascending from 0; the last has no end.
      row_of: int32 [S], the row that a segment reads.
      tokens: int16 [R, 144], the distinct rows, as the model reads them.
      temperature: float32 [R], scale of the sampling noise.
      top_k: int32 [R], how many codes of a level may be drawn.

    Raises:
      ValueError: There are more than ``MAX_ROWS`` rows or ``MAX_SEGMENTS`` segments.
    """

    starts: NDArray[np.int64]
    row_of: NDArray[np.int32]
    tokens: NDArray[np.int16]
    temperature: NDArray[np.float32]
    top_k: NDArray[np.int32]

    def __post_init__(self) -> None:
        for what, count, most in (
            ("different rows", len(self.tokens), MAX_ROWS),
            ("changes", len(self.starts), MAX_SEGMENTS),
        ):
            if count > most:
                raise ValueError(f"a timeline holds at most {most:,} {what}, got {count:,}")
        for table in (self.starts, self.row_of, self.tokens, self.temperature, self.top_k):
            table.setflags(write=False)

    def read(
        self,
        first: int,
        tokens: NDArray[np.int32],
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int32],
    ) -> None:
        """Writes what F frames from ``first`` on read.

        Args:
          first: A frame, 0 or later.
          tokens: int32 [F, 144], written to.
          temperature: float32 [F], written to.
          top_k: int32 [F], written to.
        """
        frames = np.arange(first, first + len(tokens))
        found = self.row_of[np.searchsorted(self.starts, frames, side="right") - 1]
        tokens[:] = self.tokens[found]
        temperature[:] = self.temperature[found]
        top_k[:] = self.top_k[found]

    def spliced(self, frame: int, later: Timeline, keep_from: int = 0) -> Timeline:
        """This timeline up to a frame, and another one, counted from there, after it.

        Args:
          frame: Where ``later`` begins.
          later: What holds from there on.
          keep_from: Frames before this one are not read any more and need not be kept.

        Raises:
          ValueError: The two are too large together.
        """
        if frame <= keep_from:
            kept = slice(0, 0)
            starts = np.zeros(0, np.int64)
        else:
            first = int(np.searchsorted(self.starts, keep_from, side="right")) - 1
            kept = slice(first, int(np.searchsorted(self.starts, frame, side="left")))
            starts = self.starts[kept].copy()
            starts[0] = 0
        used, row_of = np.unique(self.row_of[kept], return_inverse=True)
        moved = later.starts + frame
        if not len(starts):
            moved[0] = 0
        return Timeline(
            np.concatenate([starts, moved]),
            np.concatenate([row_of, later.row_of + len(used)]).astype(np.int32),
            np.concatenate([self.tokens[used], later.tokens]),
            np.concatenate([self.temperature[used], later.temperature]),
            np.concatenate([self.top_k[used], later.top_k]),
        )


def from_rows(tokens: ArrayLike, temperature: ArrayLike, top_k: ArrayLike) -> Timeline:
    """The timeline of T frames, the last of which goes on for ever.

    Args:
      tokens: int [T, 144], T at least 1, as ``conditioning`` makes them.
      temperature: float [T], or one for all; 0 or more.
      top_k: int [T], or one for all; at least 1.

    Raises:
      ValueError: There are no rows, or too many different ones.
    """
    dense = np.asarray(tokens, np.int16)
    frames = len(dense)
    if not frames:
        raise ValueError("a timeline has at least one row")
    whole = np.empty((frames, dense.shape[1] + 4), np.int16)
    whole[:, :-4] = dense
    whole[:, -4:-2] = _per_frame(temperature, np.float32, frames).view(np.int16)
    whole[:, -2:] = _per_frame(top_k, np.int32, frames).view(np.int16)
    starts = np.concatenate([[0], 1 + np.flatnonzero((whole[1:] != whole[:-1]).any(axis=1))])
    index: dict[bytes, int] = {}  # a row's bytes to its place in the table
    row_of = [index.setdefault(row.tobytes(), len(index)) for row in whole[starts]]
    distinct = np.frombuffer(b"".join(index), np.int16).reshape(len(index), -1)
    return Timeline(
        starts.astype(np.int64),
        np.array(row_of, np.int32),
        np.ascontiguousarray(distinct[:, :-4]),
        np.ascontiguousarray(distinct[:, -4:-2]).view(np.float32)[:, 0],
        np.ascontiguousarray(distinct[:, -2:]).view(np.int32)[:, 0],
    )


def constant(style_tokens: ArrayLike, controls: Controls | None = None) -> Timeline:
    """One style and its controls, for ever.

    Args:
      style_tokens: int [12], 0 to 1023 each, or -1 for not given.
      controls: Upstream's defaults if None.

    Raises:
      ValueError: There are not 12 style tokens.
    """
    controls = controls or Controls()
    return from_rows(
        conditioning.rows(np.asarray(style_tokens)[None], controls),
        controls.temperature,
        controls.top_k,
    )


def _per_frame(values: ArrayLike, dtype: type[np.generic], frames: int) -> NDArray[np.generic]:
    """A contiguous [frames, 1] of values that may be one for all."""
    return np.broadcast_to(np.asarray(values, dtype), frames).reshape(frames, 1).copy()
