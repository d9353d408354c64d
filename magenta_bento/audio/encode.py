"""PCM frames -> bytes of an audio file, whole or as a stream, behind one interface.

    encoder = make_encoder(format, tags, kbps, streamed=True)
    for pcm in frames: send(encoder.feed(pcm))
    send(encoder.finish())

A format's header holds sizes that are known only at the end. A whole file is therefore kept
back until ``finish`` and its header mended; a stream sends bytes as they come, and its header
says that the length is unknown, in the way of its format.

Invariant: WAV and FLAC hold the very samples that were fed; a decoded file, streamed MP3 aside,
is exactly as long as what was fed.
"""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from magenta_bento.audio.formats import CHANNELS, FRAME_SAMPLES, SAMPLE_RATE_HZ, AudioFormat
from magenta_bento.audio.tags import Tags, id3v2, riff_info
from magenta_bento.errors import GenerationFailed

Pcm = NDArray[np.int16]  # int16 [N, 2] at 48 kHz

_WAV_LENGTH_UNKNOWN = 0xFFFF_FFFF
_WAV_MAX_BYTES = 0xFFFF_FFFE

# libsndfile chooses the bit rate from a level in 0..1; each value is the middle of the span
# that LAME rounds to that rate, kbit/s, at 48 kHz.
_MP3_LEVEL = {320: 0.05, 256: 0.19, 224: 0.33, 192: 0.44}
_FULL_SCALE = np.float32(32_768)  # of int16, as float is -1 to 1
_VORBIS_LEVEL = 0.4  # 1 - quality: Vorbis quality 6, about 192 kbit/s


class Encoder(Protocol):
    """Turns one piece of music into one file; used once, by one thread at a time."""

    def feed(self, pcm: Pcm) -> bytes:
        """Takes int16 [N, 2], any N; returns the bytes that are ready, often none."""

    def finish(self) -> bytes:
        """Returns what is left. Call once, after the last ``feed``."""


def make_encoder(
    format: AudioFormat, tags: Tags, mp3_bitrate_kbps: int, *, streamed: bool
) -> Encoder:
    """An encoder for one piece.

    Args:
      format: The file format.
      tags: Written at the front of the file.
      mp3_bitrate_kbps: Constant bit rate of MP3: 192, 224, 256 or 320 kbit/s.
      streamed: True sends bytes as they come, with a header of unknown length; False keeps
        all bytes for ``finish``, with a true header.

    Raises:
      ValueError: A bit rate that is not offered.
    """
    if mp3_bitrate_kbps not in _MP3_LEVEL:
        raise ValueError(f"mp3_bitrate_kbps must be in {sorted(_MP3_LEVEL)}: {mp3_bitrate_kbps}")
    if format is AudioFormat.wav:
        return _WavEncoder(tags, streamed)
    return _LibsndfileEncoder(format, tags, mp3_bitrate_kbps, streamed)


def encode(format: AudioFormat, pcm: Pcm, tags: Tags, mp3_bitrate_kbps: int) -> bytes:
    """A finished file.

    Args:
      pcm: int16 [N, 2], N at least 1.

    Raises:
      GenerationFailed: The encoder failed, or the file would be too large for its format.
      ValueError: A bit rate that is not offered, or an array of another shape or type.
    """
    encoder = make_encoder(format, tags, mp3_bitrate_kbps, streamed=False)
    return encoder.feed(pcm) + encoder.finish()


class _WavEncoder:
    """16-bit PCM behind a 44-byte header and, before the data, a LIST/INFO chunk."""

    def __init__(self, tags: Tags, streamed: bool) -> None:
        self._info = riff_info(tags)
        self._streamed = streamed
        self._kept: list[bytes] = []
        self._begun = False

    def feed(self, pcm: Pcm) -> bytes:
        data = _checked(pcm).astype("<i2", copy=False).tobytes()
        if not self._streamed:
            self._kept.append(data)
            return b""
        return self._stream_header() + data

    def finish(self) -> bytes:
        if self._streamed:
            return self._stream_header()
        data_bytes = sum(map(len, self._kept))
        if data_bytes + len(self._info) + 36 > _WAV_MAX_BYTES:
            raise GenerationFailed(f"a WAV file holds at most 4 GiB, got {data_bytes} bytes")
        return b"".join([self._header(data_bytes), *self._kept])

    def _stream_header(self) -> bytes:
        """The header, the first time; nothing afterwards."""
        first, self._begun = not self._begun, True
        return self._header(None) if first else b""

    def _header(self, data_bytes: int | None) -> bytes:
        block = CHANNELS * 2  # bytes of one sample of all channels
        rate = SAMPLE_RATE_HZ
        unknown = data_bytes is None
        riff = _WAV_LENGTH_UNKNOWN if unknown else 36 + len(self._info) + (data_bytes or 0)
        data = _WAV_LENGTH_UNKNOWN if unknown else (data_bytes or 0)
        fmt = struct.pack("<IHHIIHH", 16, 1, CHANNELS, rate, rate * block, block, 16)
        return b"".join(
            (
                *(b"RIFF", struct.pack("<I", riff), b"WAVEfmt ", fmt),
                *(self._info, b"data", struct.pack("<I", data)),
            )
        )


class _LibsndfileEncoder:
    """MP3, FLAC and OGG, written by libsndfile into a sink that streams."""

    def __init__(self, format: AudioFormat, tags: Tags, kbps: int, streamed: bool) -> None:
        self._sink = _Sink()
        self._streamed = streamed
        # libsndfile 1.2.2 copies half of an int16 buffer for MP3 and encodes, for the rest, what
        # was in memory: noise, different each time (libsndfile pull request 1106).
        self._as_float = format is AudioFormat.mp3
        self._before = b""  # bytes that go out before libsndfile's
        self._to_drop = 0  # bytes of libsndfile's that do not go out
        options: dict[str, object]
        if format is AudioFormat.mp3:
            options = {
                "format": "MP3",
                "subtype": "MPEG_LAYER_III",
                "bitrate_mode": "CONSTANT",
                "compression_level": _MP3_LEVEL[kbps],
            }
            self._before = id3v2(tags)
            # LAME begins with an empty frame and mends it, at the end, into the Info header
            # with the length. A stream can't go back, and would play the frame as silence.
            self._to_drop = 3 * kbps if streamed else 0  # bytes of a frame at 48 kHz
        elif format is AudioFormat.flac:
            options = {"format": "FLAC", "subtype": "PCM_16"}
        else:
            options = {"format": "OGG", "subtype": "VORBIS", "compression_level": _VORBIS_LEVEL}
        try:
            self._file = soundfile.SoundFile(
                self._sink, "w", SAMPLE_RATE_HZ, CHANNELS, closefd=False, **options
            )
            if format is not AudioFormat.mp3:  # libsndfile's ID3 is not UTF-8
                for name, text in tags.cleaned().items():
                    setattr(self._file, name, text)
        except soundfile.LibsndfileError as error:
            raise GenerationFailed(f"the {format} encoder did not start: {error}") from error

    def feed(self, pcm: Pcm) -> bytes:
        pcm = _checked(pcm)
        try:
            # A frame at a time: libsndfile's Vorbis writer overflows the stack on one huge write,
            # and libvorbis begins otherwise with other first writes, whole or streamed.
            for start in range(0, len(pcm), FRAME_SAMPLES):
                chunk = pcm[start : start + FRAME_SAMPLES]
                self._file.write(chunk / _FULL_SCALE if self._as_float else chunk)
        except soundfile.LibsndfileError as error:
            raise GenerationFailed(f"the encoder failed: {error}") from error
        return self._ready() if self._streamed else b""

    def finish(self) -> bytes:
        try:
            self._file.close()
        except soundfile.LibsndfileError as error:
            raise GenerationFailed(f"the encoder failed at the end: {error}") from error
        return self._ready()

    def _ready(self) -> bytes:
        made = self._sink.take()
        dropped = min(self._to_drop, len(made))
        self._to_drop -= dropped
        before, self._before = self._before, b""
        return before + made[dropped:]


class _Sink:
    """A file that libsndfile writes and whose bytes can be taken while it is written.

    libsndfile goes back only to mend headers; what is mended after it was taken is lost.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._taken = 0  # bytes that are gone from the front
        self._at = 0  # where the next write goes, from the very beginning

    def write(self, data: bytes) -> int:
        offset = self._at - self._taken
        if offset >= 0:
            self._kept[offset : offset + len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self._at, self._taken + len(self._kept))[whence]
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """The bytes since the last call."""
        made = bytes(self._kept)
        self._taken += len(made)
        self._kept.clear()
        return made


def _checked(pcm: Pcm) -> Pcm:
    """``pcm`` in C order; another type would be scaled without a word, so it is refused."""
    if pcm.dtype != np.int16 or pcm.ndim != 2 or pcm.shape[1] != CHANNELS:
        raise ValueError(f"pcm must be int16 [N, {CHANNELS}], got {pcm.dtype} {pcm.shape}")
    return np.ascontiguousarray(pcm)
