"""How long a frame takes on a GPU that nobody has measured.

The roofline model (Williams, Waterman & Patterson 2009, "Roofline: an insightful visual
performance model for multicore architectures"): a part of the model takes as long as the
slower of its memory traffic and its arithmetic. Parts run one after the other. The cost of
starting each kernel, which the roofline model leaves out, is added to their sum.

Invariant: a frame of more streams never takes less time; nothing here was measured.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, fields

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.capacity import BATCH_SIZES, FEWEST_SLOTS, compiled_sizes, fits, keeps_up
from magenta_bento.planning.gpus import Gpu
from magenta_bento.planning.workload import Workload

MOST_STREAMS = 1_000_000  # where every search ends


@dataclass(frozen=True)
class Efficiency:
    """How much of the peak rates of its data sheet a GPU reaches.

    Attributes:
      bandwidth: Share of the peak memory bandwidth, 0 to 1.
      compute: Share of the peak tensor rate, 0 to 1.
      kernel_s: Seconds between one kernel and the next in which the GPU does nothing.
    """

    bandwidth: float
    compute: float
    kernel_s: float


# Long copies reach nine tenths of a GPU's bandwidth, but most of the model's kernels read a few
# MB and end before the memory is busy. Batches of at most 256 rows, and convolutions of 64 to 256
# channels, leave most of a tensor core's tile empty. Starting a kernel takes 4 to 6 us, and less
# from a CUDA graph.
EXPECTED = Efficiency(bandwidth=0.7, compute=0.35, kernel_s=5e-6)
CEILING = Efficiency(bandwidth=1.0, compute=1.0, kernel_s=0.0)


@dataclass(frozen=True)
class FrameTime:
    """The time of a frame, in parts, seconds.

    Attributes:
      kernels_s: Starting kernels.
      weights_s: Reading parameters, in the parts of the model that memory traffic bounds.
      streams_s: The memory traffic of the streams, in the same parts.
      compute_s: Arithmetic, in the parts that arithmetic bounds.
    """

    kernels_s: float
    weights_s: float
    streams_s: float
    compute_s: float

    @property
    def total_s(self) -> float:
        return self.kernels_s + self.weights_s + self.streams_s + self.compute_s

    @property
    def bottleneck(self) -> str:
        """What takes the most of the time, in words."""
        words = {
            "kernels_s": "starting kernels",
            "weights_s": "reading the weights",
            "streams_s": "the memory traffic of the streams",
            "compute_s": "arithmetic",
        }
        return words[max((f.name for f in fields(self)), key=lambda name: getattr(self, name))]


def frame_time(
    gpu: Gpu, work: Workload, streams: int, efficiency: Efficiency = EXPECTED
) -> FrameTime:
    """The time of a frame of a batch with ``streams`` rows."""
    bytes_per_s = gpu.bytes_per_s * efficiency.bandwidth
    weights_s = streams_s = compute_s = 0.0
    for part in work.parts:
        read_s = part.weight_bytes / bytes_per_s
        moved_s = streams * part.stream_bytes / bytes_per_s
        flops_per_s = gpu.flops_per_s[part.precision] * efficiency.compute
        computed_s = streams * part.flops / flops_per_s
        if read_s + moved_s >= computed_s:
            weights_s += read_s
            streams_s += moved_s
        else:
            compute_s += computed_s
    return FrameTime(work.kernels * efficiency.kernel_s, weights_s, streams_s, compute_s)


def streams_in_real_time(gpu: Gpu, work: Workload, efficiency: Efficiency = EXPECTED) -> int:
    """The most streams whose frame takes no longer than it plays; 0 if not even one's does."""

    def misses_real_time(streams: int) -> bool:
        return frame_time(gpu, work, streams, efficiency).total_s > FRAME_S

    return _last_without(misses_real_time)


def streams_in_memory(gpu: Gpu, work: Workload) -> int:
    """The most streams that fit into a GPU's memory by the server's own rule."""

    def exceeds_memory(streams: int) -> bool:
        return not fits(streams, work.parameter_bytes, work.state_bytes, gpu.memory_bytes)

    return _last_without(exceeds_memory)


def default_slots(gpu: Gpu, work: Workload) -> int:
    """The number of slots that a server would choose: the largest batch that keeps up.

    It is the fewest slots that a server considers if no batch keeps up with playback.
    """
    most = streams_in_memory(gpu, work)
    real_time_sizes = [
        size
        for size in BATCH_SIZES
        if FEWEST_SLOTS <= size <= most and keeps_up(frame_time(gpu, work, size).total_s)
    ]
    return max(real_time_sizes, default=FEWEST_SLOTS)


def batch_for(streams: int, slots: int) -> int:
    """Rows of the batch in which ``streams`` streams play; free rows take as much time."""
    return next(size for size in compiled_sizes(slots) if size >= streams)


def _last_without(is_too_many: Callable[[int], bool]) -> int:
    """The largest number of streams, up to ``MOST_STREAMS``, that is not too many."""
    return bisect.bisect_left(range(1, MOST_STREAMS + 1), True, key=is_too_many)
