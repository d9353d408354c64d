"""How long a frame takes on a GPU that nobody has measured.

The roofline model (Williams, Waterman & Patterson 2009, "Roofline: an insightful visual
performance model for multicore architectures"): a part of the model takes as long as the
slower of its memory traffic and its arithmetic. Parts run one after the other. To their sum
comes what it costs to start each kernel, which no roofline knows of.

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
    """How much of its data sheet a GPU gives.

    Attributes:
      bandwidth: Share of the peak memory bandwidth.
      compute: Share of the peak tensor rate.
      kernel_s: Seconds from one kernel to the next that go by without work.
    """

    bandwidth: float
    compute: float
    kernel_s: float


# Long copies reach nine tenths of the bandwidth, but most of these kernels read a few MB and
# are over before the memory is busy. At most 256 rows, and convolutions of 64 to 256 channels,
# leave most of a tensor core's tile empty. A launch costs 4 to 6 us, and less from a CUDA graph.
EXPECTED = Efficiency(bandwidth=0.7, compute=0.35, kernel_s=5e-6)
CEILING = Efficiency(bandwidth=1.0, compute=1.0, kernel_s=0.0)


@dataclass(frozen=True)
class FrameTime:
    """Where the time of a frame goes, seconds."""

    kernels_s: float
    weights_s: float
    streams_s: float
    compute_s: float

    @property
    def total_s(self) -> float:
        return self.kernels_s + self.weights_s + self.streams_s + self.compute_s

    @property
    def binds(self) -> str:
        """What takes the most of it, for people."""
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
    """The time of a frame of a batch with so many rows."""
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

    def late(streams: int) -> bool:
        return frame_time(gpu, work, streams, efficiency).total_s > FRAME_S

    return _last_before(late)


def streams_in_memory(gpu: Gpu, work: Workload) -> int:
    """The most streams that the server takes to fit, as it reckons itself."""

    def too_large(streams: int) -> bool:
        return not fits(streams, work.parameter_bytes, work.state_bytes, gpu.memory_bytes)

    return _last_before(too_large)


def slots(gpu: Gpu, work: Workload) -> int:
    """How many streams one server should play: a batch size with a fifth of the time to spare.

    The smallest one that the server considers if none has that.
    """
    most = streams_in_memory(gpu, work)
    good = [
        size
        for size in BATCH_SIZES
        if FEWEST_SLOTS <= size <= most and keeps_up(frame_time(gpu, work, size).total_s)
    ]
    return max(good, default=FEWEST_SLOTS)


def batch_for(streams: int, slots: int) -> int:
    """Rows of the compiled batch in which so many streams play; free rows cost as much."""
    return next(size for size in compiled_sizes(slots) if size >= streams)


def _last_before(fails: Callable[[int], bool]) -> int:
    """The last of 0, 1, … ``MOST_STREAMS`` before the first that fails."""
    return bisect.bisect_left(range(1, MOST_STREAMS + 1), True, key=fails)
