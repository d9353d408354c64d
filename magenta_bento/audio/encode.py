"""PCM frames -> bytes of an audio file, whole or as a stream, behind one interface.

    encoder = make_stream_encoder(StreamFormat.ogg, tags)
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
from magenta_bento.audio.sndfile import Codec, LibsndfileEncoder
from magenta_bento.audio.tags import Tags

_CODECS = {
    AudioFormat.mp3: Codec.mp3,
    AudioFormat.flac: Codec.flac,
    AudioFormat.ogg: Codec.opus,
    StreamFormat.mp3: Codec.mp3,
    StreamFormat.ogg: Codec.opus,
}


class Encoder(Protocol):
    """Turns one piece of music into one file; used once, by one thread at a time."""

    @property
    def in_place(self) -> bool:
        """Whether ``feed`` only moves bytes, which costs less than another thread does."""

    def feed(self, pcm: Pcm) -> bytes:
        """Takes int16 [N, 2], any N; returns the bytes that are ready, often none."""

    def finish(self) -> bytes:
        """Returns what is left. Call once, after the last ``feed``."""


def make_file_encoder(format: AudioFormat, tags: Tags, mp3_bitrate_kbps: int) -> Encoder:
    """An encoder that keeps all bytes for ``finish``, so that the header is true.

    Args:
      format: The file format.
      tags: Written at the front of the file.
      mp3_bitrate_kbps: Constant bit rate of MP3: 192, 224, 256 or 320 kbit/s; other formats
        have none to choose.

    Raises:
      GenerationFailed: The codec did not start.
      ValueError: A bit rate of MP3 that is not offered.
    """
    if format is AudioFormat.wav:
        return WavFileEncoder(tags)
    return LibsndfileEncoder(_CODECS[format], tags, mp3_bitrate_kbps, streamed=False)


def make_stream_encoder(
    format: StreamFormat,
    tags: Tags,
    *,
    samples: int | None = None,
    mp3_bitrate_kbps: int | None = None,
) -> Encoder:
    """An encoder whose bytes leave as they come.

    Args:
      format: The stream format.
      tags: Written at the front, where the format has a place for them.
      samples: How many per channel will be fed, for the header of a WAV; None if nobody knows.
      mp3_bitrate_kbps: Constant bit rate of MP3: 192, 224, 256 or 320 kbit/s. Only MP3 needs it.

    Raises:
      GenerationFailed: The codec did not start, or so many samples do not fit into the format.
      ValueError: MP3 without a bit rate that is offered.
    """
    if format is StreamFormat.pcm:
        return RawEncoder()
    if format is StreamFormat.wav:
        return WavEncoder(tags, samples)
    return LibsndfileEncoder(_CODECS[format], tags, mp3_bitrate_kbps, streamed=True)


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
