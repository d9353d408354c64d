"""Fades at the beginning and the end of a finished piece.

Invariant: a fade changes the level alone: the piece is as long as before, and between its fades
the very samples are those that were fed.
"""

from __future__ import annotations

import warnings

import numpy as np

from magenta_bento.audio.encode import Encoder
from magenta_bento.audio.formats import CHANNELS, SAMPLE_RATE_HZ
from magenta_bento.audio.pcm import Pcm, require_stereo_int16

MAX_FADE_S = 30.0


class FadingEncoder:
    """Keeps a piece until it is whole, fades it, and hands it to another encoder.

    Args:
      encoder: Makes the file.
      fade_in_s: How long the level rises, seconds; at most the whole piece is faded.
      fade_out_s: How long it falls at the end, seconds; likewise.
    """

    in_place = True  # feeding only keeps; the work is done by ``finish``

    def __init__(self, encoder: Encoder, fade_in_s: float, fade_out_s: float) -> None:
        self._encoder = encoder
        self._fade_in_s = fade_in_s
        self._fade_out_s = fade_out_s
        self._kept: list[Pcm] = []

    def feed(self, pcm: Pcm) -> bytes:
        self._kept.append(require_stereo_int16(pcm))
        return b""

    def finish(self) -> bytes:
        pcm = np.concatenate([*self._kept, np.zeros((0, CHANNELS), np.int16)])
        faded = fade(pcm, self._fade_in_s, self._fade_out_s)
        return self._encoder.feed(faded) + self._encoder.finish()


def fade(pcm: Pcm, fade_in_s: float, fade_out_s: float) -> Pcm:
    """int16 [N, 2] whose level rises from silence and falls to it, linearly in amplitude.

    Args:
      pcm: int16 [N, 2] at 48 kHz, N a whole number of milliseconds, as whole frames are.
      fade_in_s: Seconds from the beginning; at most all of them.
      fade_out_s: Seconds to the end; likewise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydub misses an ffmpeg on PATH, which nothing here needs
        from pydub import AudioSegment

    segment = AudioSegment(
        pcm.astype("<i2").tobytes(),
        sample_width=pcm.dtype.itemsize,
        frame_rate=SAMPLE_RATE_HZ,
        channels=CHANNELS,
    )
    if fade_in_s:
        segment = segment.fade_in(_milliseconds(fade_in_s, segment))
    if fade_out_s:
        segment = segment.fade_out(_milliseconds(fade_out_s, segment))
    return np.frombuffer(segment.raw_data, "<i2").astype(np.int16).reshape(-1, CHANNELS)


def _milliseconds(seconds: float, segment: object) -> int:
    return min(max(1, round(1_000 * seconds)), len(segment))  # type: ignore[arg-type]
