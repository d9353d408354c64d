"""The demo that ships: the right shapes, a working MusicCoCa, played as upstream plays it.

What its music is like, tests/test_demo_meaning.py asks; how it is made, tests/test_demo_*.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from magenta_rt import audio, paths
from magenta_rt.jax import spectrostream, system
from magenta_rt.jax.model import MODEL_REGISTRY
from magenta_rt.musiccoca import MusicCoCa

from bench.stock import stock_system
from magenta_bento.model.architecture import ARCHITECTURES
from tools.demo_model import build, checkpoint, listen

RESOURCES = build.HOME / "resources" / "musiccoca"
CHECKPOINT = build.HOME / "checkpoints" / ARCHITECTURES["demo"].checkpoint_name
LARGEST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def musiccoca() -> MusicCoCa:
    return MusicCoCa(resource_dir=RESOURCES)


@pytest.fixture(scope="module")
def stock(musiccoca: MusicCoCa) -> system.MagentaRT2System:
    return stock_system("demo", build.HOME, jnp.float32, style_model=musiccoca)


@pytest.fixture(scope="module")
def heard() -> np.ndarray:
    """int16 [2 seeds, samples, 2] of the first prompt, as the builder plays it."""
    demo, stored = ARCHITECTURES["demo"], safetensors.numpy.load_file(CHECKPOINT)
    prompts = listen.PROMPTS[:1]
    return listen.render(demo, stored, RESOURCES, frames=10, prompts=prompts, seeds=(0, 1))[0]


def test_the_checkpoint_has_the_parameters_that_the_sampler_expects() -> None:
    demo = ARCHITECTURES["demo"]
    expected = jax.eval_shape(lambda key: checkpoint.initial(demo, key), jax.random.PRNGKey(0))
    stored = safetensors.numpy.load_file(CHECKPOINT)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in stored.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()
    }
    assert all(np.isfinite(leaf).all() for leaf in stored.values())


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in build.HOME.rglob("*")) < LARGEST_BYTES


def test_prompts_have_unit_embeddings_and_tokens_of_their_own(musiccoca: MusicCoCa) -> None:
    embeddings = musiccoca.embed(list(listen.PROMPTS))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    tokens = musiccoca.tokenize(embeddings)
    assert tokens.shape == (len(listen.PROMPTS), 12)
    assert tokens.min() >= 0
    assert tokens.max() <= 1_023
    for one, other in itertools.combinations(range(len(listen.PROMPTS)), 2):
        assert embeddings[one] @ embeddings[other] < 0.8
        assert np.mean(tokens[one] == tokens[other]) < 0.5


@pytest.mark.parametrize("text", ["", " ", "808", "日本の音楽 🎸", "é" * 500, "piano " * 300])
def test_any_text_has_an_embedding(musiccoca: MusicCoCa, text: str) -> None:
    embedding = musiccoca.embed(text)
    assert embedding.shape == (768,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_word_order_matters(musiccoca: MusicCoCa) -> None:
    first, second = musiccoca.embed(["piano over drums", "drums over piano"])
    assert first @ second < 0.99


def test_the_mapper_keeps_the_direction_and_heeds_its_seed(musiccoca: MusicCoCa) -> None:
    text = musiccoca.embed("disco funk")
    mapped = [musiccoca.embed("disco funk", use_mapper=True, seed=seed) for seed in (0, 1)]
    assert all(0.7 < text @ one < 0.999 for one in mapped)
    assert not np.array_equal(*(musiccoca.tokenize(one) for one in mapped))


def _noise(time_s: np.ndarray) -> np.ndarray:
    return 0.1 * np.random.RandomState(0).standard_normal(time_s.shape)


def _tone(time_s: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * time_s)


def _pulses(time_s: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 110 * time_s) * (time_s % 0.5 < 0.1)


def test_other_audio_has_other_embeddings(musiccoca: MusicCoCa) -> None:
    makers: list[Callable[[np.ndarray], np.ndarray]] = [_noise, _tone, _pulses, np.zeros_like]
    time_s = np.arange(160_000) / 16_000
    clips = [audio.Waveform(make(time_s).astype(np.float32)[:, None], 16_000) for make in makers]
    embeddings = musiccoca.embed(clips)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    tokens = musiccoca.tokenize(embeddings)
    for one, other in itertools.combinations(range(len(clips)), 2):
        assert embeddings[one] @ embeddings[other] < 0.97
        assert not np.array_equal(tokens[one], tokens[other])


def test_the_stock_system_plays_it_audibly(stock: system.MagentaRT2System) -> None:
    played = []
    for prompt in listen.PROMPTS[:3]:
        style = stock.embed_style(prompt, use_mapper=True)
        waveform, _ = stock.generate({"mulan_tokens_25hz": style}, frames=20)
        assert waveform.sample_rate == 48_000
        assert waveform.samples.shape == (20 * 1_920, 2)
        assert np.isfinite(waveform.samples).all()
        heard = waveform.samples[listen.SILENT_SAMPLES :]
        assert -30 < 20 * np.log10(np.sqrt(np.mean(heard**2))) < -6
        assert np.mean(np.abs(heard) > 0.999) < 0.01
        played.append(heard)
    for one, other in itertools.combinations(played, 2):
        assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.5


def test_the_builders_ear_hears_what_the_stock_system_plays(
    stock: system.MagentaRT2System, heard: np.ndarray
) -> None:
    """Same style, guidance, sampling and key: the stock system's own key is replaced."""
    style = stock.embed_style(listen.PROMPTS[0], use_mapper=True)
    for seed in (0, 1):
        fresh = stock._jit_init_state(stock._params, {})
        encoder, previous, (_, sos, temporal, count), delay = fresh[0]
        keyed = (jax.random.PRNGKey(seed)[None], sos, temporal, count)
        state = ((encoder, previous, keyed, delay), *fresh[1:])
        waveform, _ = stock.generate({"mulan_tokens_25hz": style}, frames=10, state=state)
        played = waveform.samples[listen.SILENT_SAMPLES :]
        np.testing.assert_allclose(heard[seed] / 32_768, played, atol=2 / 32_768)


def test_seeds_sound_different(heard: np.ndarray) -> None:
    assert abs(np.corrcoef(heard[0, :, 0], heard[1, :, 0])[0, 1]) < 0.5


def test_notes_drums_and_guidance_are_heard(stock: system.MagentaRT2System) -> None:
    note = np.full(128, -1)
    note[60] = 2
    style = {"mulan_tokens_25hz": stock.embed_style(listen.PROMPTS[0])}
    plain, *others = (
        stock.generate(style | controls, cfg_scales=guidance, frames=10)[0].samples
        for controls, guidance in (
            ({}, None),
            ({"pianoroll_with_onsets_tokens": note}, None),
            ({"drum_pianoroll_tokens": [1]}, None),
            ({}, {"musiccoca": 0.0}),
        )
    )
    for other in others:
        assert np.abs(plain - other).max() > 0.01


def test_upstream_is_left_as_it_was(stock: system.MagentaRT2System) -> None:
    assert "demo" not in MODEL_REGISTRY
    assert "demo" not in system._CHECKPOINT_REGISTRY
    full = spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config(12)
    assert full.num_features == 256
    assert paths.magenta_home() != build.HOME
    assert stock._model.compute_dtype is jnp.float32
