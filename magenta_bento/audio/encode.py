"""PCM frames -> bytes of an audio file, whole or as a stream, behind one interface.

    encoder = make_stream_encoder(format, tags, kbps, samples=None)
    for pcm in frames: send(encoder.feed(pcm))
    send(encoder.finish())

A format's header holds sizes that are known only at the end. A whole file is therefore kept
back until ``finish`` and its header mended; a stream sends bytes as they come, and its header
says that the length is unknown, in the way of its format.

Invariant: WAV and FLAC hold the very samples that were fed; a decoded file, streamed MP3 aside,
is exactly as long as what was fed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Protocol

from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.audio.pcm import Pcm, RawEncoder, WavEncoder, WavFileEncoder
from magenta_bento.audio.sndfile import MP3_LEVEL, Codec, LibsndfileEncoder
from magenta_bento.audio.tags import Tags

_FILE_CODECS = {
    AudioFormat.mp3: Codec.mp3,
    AudioFormat.flac: Codec.flac,
    AudioFormat.ogg: Codec.vorbis,
}
_STREAM_CODECS = {StreamFormat.mp3: Codec.mp3, StreamFormat.ogg: Codec.opus}


class Encoder(Protocol):
    """Turns one piece of music into one file; used once, by one thread at a time."""

    @property
    def in_place(self) -> bool:
        """Whether ``feed`` only moves bytes, which costs less than another thread does."""

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
    _check_bitrate(mp3_bitrate_kbps)
    if format is AudioFormat.wav:
        return WavEncoder(tags, samples=None) if streamed else WavFileEncoder(tags)
    return LibsndfileEncoder(_FILE_CODECS[format], tags, mp3_bitrate_kbps, streamed)


def make_stream_encoder(
    format: StreamFormat, tags: Tags, mp3_bitrate_kbps: int, samples: int | None
) -> Encoder:
    """An encoder whose bytes leave as they come.

    Args:
      format: The stream format.
      tags: Written at the front, where the format has a place for them.
      mp3_bitrate_kbps: Constant bit rate of MP3: 192, 224, 256 or 320 kbit/s.
      samples: How many will be fed, for the header of a WAV; None if nobody knows.

    Raises:
      GenerationFailed: So many samples do not fit into the format.
      ValueError: A bit rate that is not offered.
    """
    _check_bitrate(mp3_bitrate_kbps)
    if format is StreamFormat.pcm:
        return RawEncoder()
    if format is StreamFormat.wav:
        return WavEncoder(tags, samples)
    return LibsndfileEncoder(_STREAM_CODECS[format], tags, mp3_bitrate_kbps, streamed=True)


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


def _check_bitrate(mp3_bitrate_kbps: int) -> None:
    if mp3_bitrate_kbps not in MP3_LEVEL:
        raise ValueError(f"mp3_bitrate_kbps must be in {sorted(MP3_LEVEL)}: {mp3_bitrate_kbps}")


async def encode_off_loop(encoder: Encoder, pcm: Pcm, pool: Executor | None = None) -> bytes:
    """The encoder's bytes for some samples, int16 [N, 2], without holding up the event loop.

    Args:
      encoder: Used by one caller at a time, in order.
      pcm: What comes next.
      pool: Where a codec runs; the loop's own threads if None.
    """
    if encoder.in_place:
        return encoder.feed(pcm)
    return await asyncio.get_running_loop().run_in_executor(pool, encoder.feed, pcm)
