"""How much of this machine one upload may use.

Invariant: every bound that decoding obeys is here, and is passed in, never read elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 8
MAX_SAMPLE = 1_000.0  # 60 dB over full scale, which is 1; float32 overflows in what comes after

_MIB = 1 << 20
_FLOAT_BYTES = 4
_GENEROUS_RATE_HZ = 96_000
_GENEROUS_CHANNELS = 2
# What is hostile has its answer after at most this: then it is killed. Music needs less: of 10
# minutes, Opus, which takes longest, takes 2.4 s on one of two shared x86-64 cores, and on busy
# ones 3.5 s.
_CPU_S = 4
_CPU_S_COVERS_S = 600.0  # seconds of audio that ``_CPU_S`` is enough for
# Wall time is no measure of what a file costs: a machine that makes music gives a decoder less
# than a core, and its client should not be told that the file was at fault. Decoders never
# wait for anything, so this bound is for those that hang.
_WALL_S_PER_CPU_S = 2.5


@dataclass(frozen=True)
class DecodeLimits:
    """The bounds of one decoding.

    Attributes:
      max_seconds: Longest audio that is taken, seconds.
      cpu_s: Most processor time, seconds, of the decoding process.
      timeout_s: Longest wall time of the decoding process, seconds.
    """

    max_seconds: float
    cpu_s: int = _CPU_S
    timeout_s: float = _CPU_S * _WALL_S_PER_CPU_S

    @classmethod
    def for_seconds(cls, max_seconds: float) -> DecodeLimits:
        """The bounds under which so many seconds of stereo at 48 kHz decode in every format."""
        cpu_s = max(_CPU_S, math.ceil(_CPU_S * max_seconds / _CPU_S_COVERS_S))
        return cls(max_seconds, cpu_s, cpu_s * _WALL_S_PER_CPU_S)

    @property
    def max_decoded_bytes(self) -> int:
        """Largest float32 result: ``max_seconds`` of stereo at 96 kHz, at least 256 MiB."""
        generous = self.max_seconds * _GENEROUS_RATE_HZ * _GENEROUS_CHANNELS * _FLOAT_BYTES
        return max(256 * _MIB, math.ceil(generous))

    @property
    def memory_bytes(self) -> int:
        """Address space of the decoding process: ffmpeg, its threads, and tables of the file."""
        return 768 * _MIB + self.max_decoded_bytes
