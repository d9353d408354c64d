"""Raw samples and WAV: what needs no codec.

Invariant: the samples go out as they came in, little-endian int16.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from magenta_bento.audio.formats import CHANNELS, SAMPLE_RATE_HZ
from magenta_bento.audio.tags import Tags, riff_info
from magenta_bento.errors import GenerationFailed

Pcm = NDArray[np.int16]  # int16 [N, 2] at 48 kHz

SAMPLE_BYTES = CHANNELS * 2  # of all channels
_LENGTH_UNKNOWN = 0xFFFF_FFFF
_MAX_BYTES = 0xFFFF_FFFE


def require_stereo_int16(pcm: Pcm) -> Pcm:
    """``pcm`` in C order; another type would be scaled without a word, so it is refused.

    Raises:
      ValueError: It is not int16 [N, 2].
    """
    if pcm.dtype != np.int16 or pcm.ndim != 2 or pcm.shape[1] != CHANNELS:
        raise ValueError(f"pcm must be int16 [N, {CHANNELS}], got {pcm.dtype} {pcm.shape}")
    return np.ascontiguousarray(pcm)


class RawEncoder:
    """Samples, and nothing else."""

    in_place = True

    def feed(self, pcm: Pcm) -> bytes:
        return require_stereo_int16(pcm).astype("<i2", copy=False).tobytes()

    def finish(self) -> bytes:
        return b""


class WavEncoder:
    """16-bit PCM behind a header and, before the data, a LIST/INFO chunk.

    Args:
      tags: For the INFO chunk.
      samples: How many will be fed; None writes a header of unknown length, as for streams.
    """

    in_place = True

    def __init__(self, tags: Tags, samples: int | None) -> None:
        self._raw = RawEncoder()
        self._header = _header(riff_info(tags), samples)

    def feed(self, pcm: Pcm) -> bytes:
        header, self._header = self._header, b""  # it goes out once, before the first samples
        return header + self._raw.feed(pcm)

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header


class WavFileEncoder:
    """A WAV that is kept back until its length is known."""

    in_place = True

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._blocks: list[Pcm] = []

    def feed(self, pcm: Pcm) -> bytes:
        self._blocks.append(require_stereo_int16(pcm))
        return b""

    def finish(self) -> bytes:
        encoder = WavEncoder(self._tags, sum(map(len, self._blocks)))
        return b"".join([*map(encoder.feed, self._blocks), encoder.finish()])


def _header(info: bytes, samples: int | None) -> bytes:
    rate = SAMPLE_RATE_HZ
    data = _LENGTH_UNKNOWN if samples is None else samples * SAMPLE_BYTES
    riff = _LENGTH_UNKNOWN if samples is None else 36 + len(info) + data
    if samples is not None and riff > _MAX_BYTES:
        raise GenerationFailed(f"a WAV file holds at most 4 GiB, got {data} bytes")
    fmt = struct.pack("<IHHIIHH", 16, 1, CHANNELS, rate, rate * SAMPLE_BYTES, SAMPLE_BYTES, 16)
    return b"".join(
        (
            *(b"RIFF", struct.pack("<I", riff), b"WAVEfmt ", fmt),
            *(info, b"data", struct.pack("<I", data)),
        )
    )
