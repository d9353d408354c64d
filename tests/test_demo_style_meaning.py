"""What the bundled MusicCoCa understands of music that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import soxr
from magenta_rt import audio
from magenta_rt.musiccoca import MusicCoCa

from tools.demo_model import build
from tools.demo_model.music.piece import compose
from tools.demo_model.music.styles import draw
from tools.demo_model.music.words import WORDS

pytestmark = pytest.mark.long

RESOURCES = build.HOME / "resources" / "musiccoca"
PROMPTS = ("drums only", "soft ambient pad", "deep bass", "bright lead", "piano solo", "techno")
PIECES = 3


@pytest.fixture(scope="module")
def musiccoca() -> MusicCoCa:
    return MusicCoCa(resource_dir=RESOURCES)


@pytest.fixture(scope="module")
def heard(musiccoca: MusicCoCa) -> Mapping[str, np.ndarray]:
    """Embeddings float32 [PIECES, 768] of 10 s of the styles that each prompt names."""
    return {
        prompt: np.stack([_heard(musiccoca, prompt, seed) for seed in range(PIECES)])
        for prompt in PROMPTS
    }


def _heard(musiccoca: MusicCoCa, prompt: str, seed: int) -> np.ndarray:
    style = draw(np.random.default_rng(seed), WORDS[prompt])
    samples = compose(seed, 250, style).samples.mean(axis=1)
    at_16k = soxr.resample(samples, 48_000, 16_000).astype(np.float32)
    embedding: np.ndarray = musiccoca.embed(audio.Waveform(at_16k[:, None], 16_000))
    return embedding


def test_a_prompt_is_nearest_to_music_of_its_style(
    musiccoca: MusicCoCa, heard: Mapping[str, np.ndarray]
) -> None:
    texts = musiccoca.embed(list(PROMPTS), use_mapper=True)
    for text, prompt in zip(texts, PROMPTS, strict=True):
        closeness = {name: float(np.mean(clips @ text)) for name, clips in heard.items()}
        assert max(closeness, key=closeness.__getitem__) == prompt, closeness


def test_a_blend_lies_between(musiccoca: MusicCoCa, heard: Mapping[str, np.ndarray]) -> None:
    drums, pad = musiccoca.embed(["drums only", "soft ambient pad"], use_mapper=True)
    towards = [
        (share * drums + (1 - share) * pad) @ (heard["drums only"] - heard["soft ambient pad"]).T
        for share in (0.0, 0.3, 0.7, 1.0)
    ]
    assert (np.diff(towards, axis=0) > 0).all()


def test_unknown_words_are_in_the_middle_and_change_little(musiccoca: MusicCoCa) -> None:
    nothing, unknown, techno, same = musiccoca.embed(["", "xyzzy", "techno", "xyzzy techno"])
    assert nothing @ unknown > 0.8
    assert nothing @ techno < 0.6
    assert techno @ same > 0.8


def test_telling_what_does_not_play_moves_away_from_it(musiccoca: MusicCoCa) -> None:
    without, with_drums, drums = musiccoca.embed(
        ["piano, no drums", "piano with drums", "drums only"]
    )
    assert without @ drums < with_drums @ drums
