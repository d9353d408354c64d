"""What music is made of here, and the files it can leave in.

Invariant: all music inside the service is 48 kHz stereo, counted in frames of 40 ms.
"""

from __future__ import annotations

import math
from enum import StrEnum

SAMPLE_RATE_HZ = 48_000
CHANNELS = 2
FRAMES_PER_SECOND = 25
FRAME_S = 1 / FRAMES_PER_SECOND
FRAME_MS = 1_000 // FRAMES_PER_SECOND
FRAME_SAMPLES = SAMPLE_RATE_HZ // FRAMES_PER_SECOND  # samples per channel in one frame: 1,920

_FLOAT_NOISE_FRAMES = 1e-9  # 0.12 s * 25 is 3.0000000000000004 frames, and means 3


class AudioFormat(StrEnum):
    """A file format that music can be asked for in; the value is what a client writes."""

    mp3 = "mp3"
    wav = "wav"
    flac = "flac"
    ogg = "ogg"

    @property
    def media_type(self) -> str:
        """For ``Content-Type``."""
        return "audio/mpeg" if self is AudioFormat.mp3 else f"audio/{self.value}"

    @property
    def extension(self) -> str:
        """For file names, without the dot."""
        return self.value


class StreamFormat(StrEnum):
    """A format that music can be asked for in while it is made."""

    mp3 = "mp3"
    wav = "wav"
    ogg = "ogg"
    pcm = "pcm"

    @property
    def media_type(self) -> str:
        """For ``Content-Type``; raw samples are little-endian, as Lyria RealTime sends them."""
        return {
            StreamFormat.mp3: "audio/mpeg",
            StreamFormat.wav: "audio/wav",
            StreamFormat.ogg: 'audio/ogg; codecs="opus"',
            StreamFormat.pcm: f"audio/l16;rate={SAMPLE_RATE_HZ};channels={CHANNELS}",
        }[self]


def frames_for(duration_s: float) -> int:
    """The fewest whole frames, at least one, that hold ``duration_s`` seconds."""
    return max(1, math.ceil(duration_s * FRAMES_PER_SECOND - _FLOAT_NOISE_FRAMES))
