"""The rules by which a server decides how many streams it plays at once.

A start applies them to times that it measures (``model/loader.py``). A plan applies them to times
that it computes (``planning/roofline.py``), on a machine that need not have JAX's device.

Invariant: both decide by these rules alone, so that a plan and a start agree on the slots when
they agree on the times. Nothing here imports JAX.
"""

from __future__ import annotations

from magenta_bento.audio.formats import FRAME_S

BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)
TIMED_SIZES = BATCH_SIZES[:2]  # every start measures these two and extrapolates from them
FEWEST_SLOTS = TIMED_SIZES[-1]
HEADROOM = 0.8  # the share that is used of a frame's time and of the device's memory
STATE_COPIES = 3  # before a step, after it, and as much again while it computes


def compiled_sizes(slots: int) -> list[int]:
    """The batch sizes that a server with so many slots compiles, ascending."""
    return [*(size for size in BATCH_SIZES if size < slots), slots]


def keeps_up(frame_s: float) -> bool:
    """Whether a frame that takes ``frame_s`` seconds leaves the headroom for real time."""
    return frame_s <= HEADROOM * FRAME_S


def fits(batch_size: int, parameter_bytes: int, state_bytes: int, memory_bytes: float) -> bool:
    """Whether a batch should fit into the device's memory.

    Args:
      batch_size: Rows of the batch.
      parameter_bytes: Memory that the parameters take.
      state_bytes: Memory that the state of one row takes.
      memory_bytes: Memory of the device.
    """
    return parameter_bytes + STATE_COPIES * batch_size * state_bytes <= HEADROOM * memory_bytes
