"""The measures of meaning, on sounds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tools.demo_model import measures

pytestmark = pytest.mark.tools

SECONDS = 4
TIME_S = np.arange(SECONDS * measures.SAMPLE_RATE_HZ) / measures.SAMPLE_RATE_HZ
HISS = np.random.RandomState(0).standard_normal(len(TIME_S))


def stereo(mono: np.ndarray) -> np.ndarray:
    return np.repeat(mono[:, None], 2, axis=1).astype(np.float32)


def tone(hz: float) -> np.ndarray:
    return stereo(0.3 * np.sin(2 * np.pi * hz * TIME_S))


def hits(every_s: float) -> np.ndarray:
    since_s = TIME_S % every_s
    return stereo(0.3 * HISS * np.exp(-since_s / 0.02))


@pytest.mark.parametrize("every_s", [0.16, 0.24, 0.48, 1.0])
def test_hits_are_counted(every_s: float) -> None:
    assert measures.onsets_per_s(hits(every_s)) == pytest.approx(1 / every_s, rel=0.25)


def test_tones_are_hit_less_often_and_are_tonal() -> None:
    assert measures.onsets_per_s(tone(330)) < 1
    assert measures.tonal_share(tone(330)) > 0.9
    assert measures.tonal_share(hits(0.24)) < 0.3


def test_where_the_power_lies() -> None:
    assert measures.share_below(tone(100), 200) > 0.95
    assert measures.share_below(tone(400), 200) < 0.05
    assert measures.centroid_hz(tone(1_000)) < measures.centroid_hz(tone(2_000))


@pytest.mark.parametrize("midi", [48, 57, 60, 64, 71, 79])
def test_the_pitch_class_of_a_note_with_overtones(midi: int) -> None:
    hz = 440 * 2 ** ((midi - 69) / 12)
    partials = sum(tone(hz * number) / number for number in range(1, 7))
    heard = measures.pitch_classes(np.asarray(partials))
    assert len(heard) == SECONDS * 25
    assert np.mean(heard == midi % 12) > 0.95


def test_silence_has_no_pitch_and_little_else() -> None:
    silence = np.zeros((len(TIME_S), 2), np.float32)
    assert set(measures.pitch_classes(silence)) == {-1}
    assert measures.onsets_per_s(silence) == 0
    assert measures.loudness_dbfs(silence, 1.0) == pytest.approx([-100] * SECONDS)


def test_loudness_is_of_each_window() -> None:
    louder = tone(440) * np.where(TIME_S < 2, 0.1, 1.0)[:, None].astype(np.float32)
    levels = measures.loudness_dbfs(louder, 1.0)
    assert levels[2] - levels[1] == pytest.approx(20, abs=0.1)
