"""How much of this machine one upload may use.

Invariant: every bound that decoding obeys is here, and is passed in, never read elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 8

_MIB = 1 << 20
_FLOAT_BYTES = 4
_AMPLE_RATE_HZ = 96_000
_AMPLE_CHANNELS = 2


@dataclass(frozen=True)
class DecodeLimits:
    """The bounds of one decoding.

    Attributes:
      max_seconds: Longest audio that is taken, seconds.
      timeout_s: Longest wall time of the decoding process, seconds.
    """

    max_seconds: float
    timeout_s: float = 10.0

    @property
    def max_decoded_bytes(self) -> int:
        """Largest float32 result: ``max_seconds`` of stereo at 96 kHz, at least 256 MiB."""
        ample = self.max_seconds * _AMPLE_RATE_HZ * _AMPLE_CHANNELS * _FLOAT_BYTES
        return max(256 * _MIB, math.ceil(ample))

    @property
    def memory_bytes(self) -> int:
        """Address space of the decoding process: libraries, and pydub's copies of 16-bit PCM."""
        return 1024 * _MIB + 2 * self.max_decoded_bytes
