"""What the demo's music means, heard through a server: many seeds, simple measures.

The measures are those of tools/demo_model/measures.py, the listener that of
tools/demo_model/figures.py; docs/demo-model.md has the figures that were measured with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from serving import serving

from tools.demo_model import figures, measures
from tools.demo_model.figures import Listener, below_200_hz, each

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

UNLIMITED = {
    "MAX_STREAMS": str(figures.AT_ONCE),
    "RATE_LIMIT_PER_MINUTE": "0",
    "RATE_LIMIT_PER_HOUR": "0",
    "MAX_CONCURRENT_PER_CLIENT": "0",
}
Text = Callable[[str], list[np.ndarray]]


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with serving(tmp_path_factory.mktemp("demo"), MAGENTA_MODEL="demo", **UNLIMITED) as server:
        yield Listener(server.url)


@pytest.fixture(scope="module")
def text(listener: Listener) -> Text:
    """What a prompt sounds like, made once."""
    return functools.cache(listener.text)


def test_drums_strike_and_pads_sing(text: Text) -> None:
    drums, pads = text("drums only"), text("soft ambient pad")
    strikes, swells = each(measures.onsets_per_s, drums), each(measures.onsets_per_s, pads)
    assert np.median(strikes) > 3 * np.median(swells)
    struck, sung = each(measures.tonal_share, drums), each(measures.tonal_share, pads)
    assert np.median(struck) < 0.7 * np.median(sung)


def test_a_deep_bass_is_deep(text: Text) -> None:
    assert np.median(each(below_200_hz, text("deep bass"))) > 0.5


def test_a_bright_lead_is_brighter_than_a_warm_pad(text: Text) -> None:
    bright = each(measures.centroid_hz, text("bright lead"))
    warm = each(measures.centroid_hz, text("warm pad"))
    assert np.median(bright) > 1.25 * np.median(warm)
    assert np.mean(bright > np.median(warm)) >= 0.8


def test_a_blend_lies_between_and_moves_with_its_weights(listener: Listener, text: Text) -> None:
    low, high = (np.median(each(below_200_hz, text(parent))) for parent in figures.BLENDED)
    blends = [listener.blend(figures.BLENDED, weights) for weights in figures.BLENDS]
    deep = np.stack([each(below_200_hz, blend) for blend in blends])
    assert np.mean((deep > low) & (deep < high)) > 0.6, deep
    # The bass is louder: its power soon is nearly all. How bright a blend is tells more.
    centres = [np.median(each(measures.centroid_hz, blend)) for blend in blends]
    assert centres == sorted(centres, reverse=True)
    assert centres[0] > 1.25 * centres[2]


def test_drums_are_played_and_left_out(listener: Listener) -> None:
    on, off = (listener.live("techno", drums=drums) for drums in (True, False))
    struck, left = each(measures.onsets_per_s, on), each(measures.onsets_per_s, off)
    assert np.median(struck) > 2 * np.median(left)


@pytest.mark.parametrize("prompt", figures.HELD_PROMPTS)
def test_a_held_note_is_heard(listener: Listener, prompt: str) -> None:
    shares = [figures.share_of_pitch(held) for held in listener.held(prompt)]
    assert len(shares) == 20
    assert np.mean(shares) > 0.7, shares


def test_a_reference_pulls_towards_its_own_style(listener: Listener) -> None:
    cosines = figures.likeness(listener.url)
    own = np.eye(len(figures.REFERENCES), dtype=bool)
    nearest = np.argmax(cosines, axis=2) == np.arange(len(own))
    assert nearest.size == 20
    assert np.mean(nearest) > 0.4, cosines  # by chance a fifth
    assert np.mean(cosines[:, own]) > np.mean(cosines[:, ~own]) + 0.2, cosines


def test_a_minute_stays_alive(listener: Listener) -> None:
    minute = Listener(listener.url, seconds=60.0)
    drifts = each(figures.loudness_drift_db, minute.text("funk"))
    assert np.mean(drifts < 6) >= 0.7, drifts
    assert drifts.max() < 14, drifts
