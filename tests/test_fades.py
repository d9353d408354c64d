"""Fades: what they change, and what they leave."""

from __future__ import annotations

import numpy as np
import pytest
from audio_files import tone_pcm

from magenta_bento.audio.encode import make_file_encoder
from magenta_bento.audio.fades import FadingEncoder, fade
from magenta_bento.audio.formats import AudioFormat
from magenta_bento.audio.tags import Tags

SECOND = 48_000


def level(seconds: float) -> np.ndarray:
    """int16 [N, 2] of one value, so that a gain can be read off."""
    return np.full((round(seconds * SECOND), 2), 10_000, np.int16)


def test_a_fade_rises_and_falls_evenly_and_leaves_the_middle() -> None:
    faded = fade(level(3), 1.0, 0.5)
    assert faded.shape == (3 * SECOND, 2)
    assert faded.dtype == np.int16
    for at in range(0, SECOND, SECOND // 10):
        assert faded[at, 0] == pytest.approx(10_000 * at / SECOND, abs=11)
    for at in range(0, SECOND // 2, SECOND // 10):
        assert faded[-1 - at, 1] == pytest.approx(10_000 * at / (SECOND / 2), abs=25)
    np.testing.assert_array_equal(faded[SECOND : -SECOND // 2 - 48], level(1.5)[48:])
    assert np.abs(np.diff(faded.astype(np.int32), axis=0)).max() <= 20  # no click


def test_without_a_fade_nothing_changes() -> None:
    pcm = tone_pcm(SECOND)
    np.testing.assert_array_equal(fade(pcm, 0, 0), pcm)


def test_a_fade_longer_than_the_piece_takes_all_of_it() -> None:
    faded = fade(level(0.4), 30, 30)
    assert len(faded) == 0.4 * SECOND
    assert faded[0, 0] == 0
    assert faded[-1, 0] < 100
    assert faded.max() == pytest.approx(2_500, abs=100)  # both at once, half-way


def test_a_fading_encoder_gives_the_file_of_the_faded_piece() -> None:
    pcm = tone_pcm(SECOND)
    encoder = FadingEncoder(make_file_encoder(AudioFormat.flac, Tags("t"), 256), 0.2, 0.3)
    blocks = [encoder.feed(pcm[at : at + 1_920]) for at in range(0, len(pcm), 1_920)]
    plain = make_file_encoder(AudioFormat.flac, Tags("t"), 256)
    assert b"".join(blocks) == b""
    assert encoder.finish() == plain.feed(fade(pcm, 0.2, 0.3)) + plain.finish()
