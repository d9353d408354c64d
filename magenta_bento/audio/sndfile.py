"""The formats that libsndfile encodes, as bytes that can leave while they are made.

Invariant: the same samples and tags give the same bytes, every time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import soundfile

from magenta_bento.audio.formats import CHANNELS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from magenta_bento.audio.ogg import SerialFilter
from magenta_bento.audio.pcm import Pcm, require_stereo_int16
from magenta_bento.audio.tags import Tags, id3v2
from magenta_bento.errors import GenerationFailed

# libsndfile chooses the bit rate from a level in 0..1; each value is the middle of the span
# that LAME rounds to that rate, kbit/s, at 48 kHz.
MP3_LEVEL = {320: 0.05, 256: 0.19, 224: 0.33, 192: 0.44}
_FULL_SCALE = np.float32(32_768)  # of int16, as float is -1 to 1
# Likewise, of 6 to 256 kbit/s a channel: a file gets about 192 kbit/s. A stream is left at
# libsndfile's choice, about 128, for it has to arrive in time.
_OPUS_FILE_LEVEL = 0.64
_OPUS_PAGE_MS = 100.0  # libsndfile's own second is a second of latency, or lost with a cut file
_SFC_SET_OGG_PAGE_LATENCY_MS = 0x1302  # sndfile.h


class Codec(StrEnum):
    mp3 = "mp3"
    flac = "flac"
    opus = "opus"


class LibsndfileEncoder:
    """MP3, FLAC and OGG (Opus), written by libsndfile into a sink that streams.

    Args:
      codec: The codec, which has one container.
      tags: Written at the front.
      mp3_kbps: Constant bit rate of MP3, one of ``MP3_LEVEL``; of no meaning to other codecs.
      streamed: Whether bytes leave as they come, or all of them at the end with a true header.

    Raises:
      GenerationFailed: libsndfile did not start the codec.
      ValueError: MP3 at a bit rate that is not offered.
    """

    in_place = False

    def __init__(self, codec: Codec, tags: Tags, mp3_kbps: int | None, streamed: bool) -> None:
        self._sink = _Sink()
        self._streamed = streamed
        # libsndfile 1.2.2 copies half of an int16 buffer for MP3 and encodes, for the rest, what
        # was in memory: noise, different each time (libsndfile pull request 1106).
        self._as_float = codec is Codec.mp3
        self._filter: Callable[[bytes], bytes] = bytes
        self._prefix = b""  # bytes that go out before libsndfile's
        self._bytes_to_drop = 0  # bytes of libsndfile's that do not go out
        options: dict[str, object]
        if codec is Codec.mp3:
            if mp3_kbps not in MP3_LEVEL:
                raise ValueError(f"mp3_bitrate_kbps must be in {sorted(MP3_LEVEL)}: {mp3_kbps}")
            options = {
                "format": "MP3",
                "subtype": "MPEG_LAYER_III",
                "bitrate_mode": "CONSTANT",
                "compression_level": MP3_LEVEL[mp3_kbps],
            }
            self._prefix = id3v2(tags)
            # LAME begins with an empty frame and mends it, at the end, into the Info header
            # with the length. A stream can't go back, and would play the frame as silence.
            self._bytes_to_drop = 3 * mp3_kbps if streamed else 0  # bytes of a frame at 48 kHz
        elif codec is Codec.flac:
            options = {"format": "FLAC", "subtype": "PCM_16"}
        else:
            options = {"format": "OGG", "subtype": "OPUS"}
            if not streamed:
                options["compression_level"] = _OPUS_FILE_LEVEL
            self._filter = SerialFilter()
        try:
            self._file = soundfile.SoundFile(
                self._sink, "w", SAMPLE_RATE_HZ, CHANNELS, closefd=False, **options
            )
            if codec is not Codec.mp3:  # libsndfile's ID3 is not UTF-8
                for name, text in tags.clean_fields().items():
                    setattr(self._file, name, text)
            if codec is Codec.opus:
                _set_page_latency(self._file, _OPUS_PAGE_MS)
        except soundfile.LibsndfileError as error:
            raise GenerationFailed(f"the {codec} encoder did not start: {error}") from error

    def feed(self, pcm: Pcm) -> bytes:
        pcm = require_stereo_int16(pcm)
        try:
            # A frame at a time, so that libsndfile's copies stay small however much is fed.
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
        encoded = self._sink.take()
        dropped = min(self._bytes_to_drop, len(encoded))
        self._bytes_to_drop -= dropped
        prefix, self._prefix = self._prefix, b""
        return prefix + self._filter(encoded[dropped:])


class _Sink:
    """A file that libsndfile writes and whose bytes can be taken while it is written.

    libsndfile goes back only to mend headers; what is mended after it was taken is lost.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._buffer_start = 0  # bytes that are gone from the front
        self._position = 0  # where the next write goes, from the very beginning

    def write(self, data: bytes) -> int:
        offset = self._position - self._buffer_start
        if offset >= 0:
            self._buffer[offset : offset + len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self._position, self._buffer_start + len(self._buffer))[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """The bytes since the last call."""
        data = bytes(self._buffer)
        self._buffer_start += len(data)
        self._buffer.clear()
        return data


def _set_page_latency(file: soundfile.SoundFile, milliseconds: float) -> None:
    """Has OGG pages leave this often; soundfile has no name for this command of libsndfile's."""
    value = soundfile._ffi.new("double*", milliseconds)
    size = soundfile._ffi.sizeof("double")
    if soundfile._snd.sf_command(file._file, _SFC_SET_OGG_PAGE_LATENCY_MS, value, size) != 0:
        raise GenerationFailed("this libsndfile can't set the latency of OGG pages")
