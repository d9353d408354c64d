"""The demo's MusicCoCa: its LiteRT files compute what was trained, whatever was trained."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from magenta_rt import audio
from magenta_rt.musiccoca import MusicCoCa

from magenta_bento import style
from tools.demo_model import vocabulary
from tools.demo_model.lm import wishes
from tools.demo_model.lm.pieces import Pieces
from tools.demo_model.style import adapt, network, quantiser, spectrum
from tools.demo_model.style.ear import Ear
from tools.demo_model.style.files import files

pytestmark = pytest.mark.tools

PROMPTS = [
    "disco funk",
    "a jazz piano trio",
    "no drums, soft pad",
    "",
    "xyzzy 日本 🎸",
    "808 " * 200,
]


def _latents(count: int) -> np.ndarray:
    """Unit vectors float32 [count, 16]."""
    latents = np.random.RandomState(0).standard_normal((count, network.LATENT_DIMS))
    return (latents / np.linalg.norm(latents, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def ear() -> Ear:
    """Random parameters and books: parity must not depend on what was learnt."""
    spm = vocabulary.train()
    parameters = {
        name: np.asarray(value)
        for name, value in network.initial(
            vocabulary.VOCABULARY_SIZE, jax.random.PRNGKey(0)
        ).items()
    }
    parameters["audio/mean"] = np.full(spectrum.SUMMARY_SIZE, 0.3, np.float32)
    parameters["audio/scale"] = np.full(spectrum.SUMMARY_SIZE, 0.7, np.float32)
    shape = (quantiser.LEVELS, quantiser.CODES, network.LATENT_DIMS)
    books = _latents(quantiser.LEVELS * quantiser.CODES).reshape(shape)
    sizes = 0.65 ** np.arange(quantiser.LEVELS, dtype=np.float32)  # what 10 bits leave
    return Ear(parameters, books * sizes[:, None, None], spm)


@pytest.fixture(scope="module")
def musiccoca(ear: Ear, tmp_path_factory: pytest.TempPathFactory) -> MusicCoCa:
    folder: Path = tmp_path_factory.mktemp("musiccoca")
    for name, contents in files(ear).items():
        (folder / name).write_bytes(contents)
    return MusicCoCa(resource_dir=folder)


def _clips() -> np.ndarray:
    """float32 [4, 160000]: noise, a tone, pulses of one, silence."""
    time_s = np.arange(spectrum.CLIP_SAMPLES) / spectrum.SAMPLE_RATE_HZ
    noise = 0.1 * np.random.RandomState(0).standard_normal(time_s.shape)
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_s)
    return np.stack([noise, tone, tone * (time_s % 0.5 < 0.1), 0 * tone]).astype(np.float32)


@pytest.mark.parametrize("mapper", [False, True])
def test_text_as_trained(ear: Ear, musiccoca: MusicCoCa, mapper: bool) -> None:
    for seed in (0, 3):
        served = musiccoca.embed(PROMPTS, use_mapper=mapper, seed=seed)
        trained = ear.embedding(ear.text(PROMPTS, mapper, seed))
        np.testing.assert_allclose(served, trained, atol=1e-5)


def test_audio_as_trained(ear: Ear, musiccoca: MusicCoCa) -> None:
    clips = _clips()
    served = musiccoca.embed([audio.Waveform(clip[:, None], 16_000) for clip in clips])
    trained = [ear.audio(clip[:, None], 16_000) for clip in clips]
    np.testing.assert_allclose(served, ear.embedding(np.stack(trained)), atol=1e-4)


def test_tokens_as_trained_and_they_add_up(ear: Ear, musiccoca: MusicCoCa) -> None:
    latents = ear.text(PROMPTS)
    latents[0] = latents[:3].mean(axis=0)  # a blend has a norm below 1
    tokens = musiccoca.tokenize(ear.embedding(latents))
    np.testing.assert_array_equal(tokens, ear.tokens(latents))
    assert tokens.min() >= 0
    assert tokens.max() < quantiser.CODES
    np.testing.assert_allclose(quantiser.decode(tokens, ear.books), latents, atol=0.1)


def test_every_level_brings_the_codes_closer() -> None:
    latents = _latents(2_000)
    books = quantiser.fit(latents, levels=4, codes=64)
    tokens = quantiser.encode(latents, books)
    errors = [
        np.linalg.norm(quantiser.decode(tokens[:, :levels], books[:levels]) - latents)
        for levels in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.6 * np.linalg.norm(latents)
    for level in range(4):
        assert len(set(tokens[:, level])) > 48


def test_a_tone_has_its_power_in_its_band() -> None:
    bands = spectrum.log_bands(_clips()[1])
    centres_hz = np.geomspace(spectrum.LOWEST_BAND_HZ, spectrum.HIGHEST_BAND_HZ, spectrum.BANDS)
    loudest = centres_hz[np.argmax(bands.mean(axis=0))]
    assert loudest == pytest.approx(440, rel=0.1)
    assert bands.shape == (spectrum.FRAMES, spectrum.BANDS)
    assert np.exp(bands.max()) == pytest.approx(0.3**2, rel=0.5)


def test_a_pulse_shows_at_its_rate() -> None:
    summary = spectrum.summary(spectrum.log_bands(_clips()[2]))
    pulses = summary[4 * spectrum.BANDS :].reshape(spectrum.GROUPS, -1).mean(axis=0)
    slow = spectrum.PULSES_HZ < 3
    assert spectrum.PULSES_HZ[slow][np.argmax(pulses[slow])] == pytest.approx(2, rel=0.1)


def test_a_blend_is_asked_for_in_training_as_it_is_served(ear: Ear) -> None:
    random = np.random.RandomState(8)
    summaries = random.standard_normal((1, 2, 2, spectrum.SUMMARY_SIZE)).astype(np.float32)
    weights = np.array([[0.75, 0.25]], np.float32)
    captions = np.array([[["disco funk"], ["soft pad"]]])
    nothing = np.zeros(0, np.int8)
    pieces = Pieces(nothing, nothing, nothing, nothing, weights, summaries, captions)
    asked = wishes.tokens(pieces, ear, seed=0)
    assert asked.shape == (1, wishes.BY_SOUND + 1, quantiser.LEVELS)
    heard = [ear.summaries(summaries[0, half]) for half in range(2)]
    served = ear.tokens(style.blend(heard, weights[0])[None])
    np.testing.assert_array_equal(asked[:, 0], served)


def test_word_order_matters(ear: Ear) -> None:
    first, second = ear.text(["piano over drums", "drums over piano"], mapper=False)
    assert first @ second < 0.999


def test_the_files_are_small_and_always_the_same(ear: Ear) -> None:
    built = files(ear)
    assert sum(map(len, built.values())) < 4_000_000
    assert built == files(ear)


def test_the_ear_learns_to_hear_through_a_codec_and_nothing_else_changes(ear: Ear) -> None:
    random = np.random.RandomState(4)
    clean = 0.3 + random.standard_normal((64, spectrum.SUMMARY_SIZE)).astype(np.float32)
    wanted = np.asarray(network.audio_latent(ear.parameters, clean))
    coded = clean + 1.5 * np.sin(np.arange(spectrum.SUMMARY_SIZE, dtype=np.float32))
    both = np.concatenate([clean, coded])
    adapted = adapt.adapt(ear, both, np.concatenate([wanted, wanted]), steps=150)
    before, after = (
        np.sum(network.audio_latent(model.parameters, coded) * wanted, axis=-1).mean()
        for model in (ear, adapted)
    )
    assert after > 0.5 * (1 + before)
    assert np.sum(network.audio_latent(adapted.parameters, clean) * wanted, axis=-1).mean() > 0.9
    np.testing.assert_array_equal(ear.text(PROMPTS), adapted.text(PROMPTS))
    np.testing.assert_array_equal(ear.tokens(wanted), adapted.tokens(wanted))


def test_codes_are_heard_as_what_they_sound_like(monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = np.repeat(_clips()[:2, :, None], 2, axis=2)
    longer = np.repeat(sounds, 3, axis=1)  # at 48 kHz, each sample three times
    monkeypatch.setattr(adapt.codec, "decode", lambda codes: longer[codes[:, 0, 0]])
    summaries = adapt.heard(np.array([1, 0, 1])[:, None, None] * np.ones((1, 250, 12), int))
    np.testing.assert_array_equal(summaries[0], summaries[2])
    assert not np.allclose(summaries[0], summaries[1])
    direct = spectrum.summary(spectrum.log_bands(_clips()[1]))
    tone = slice(None, spectrum.BANDS)
    assert np.argmax(summaries[0][tone]) == np.argmax(direct[tone])
