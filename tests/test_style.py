"""Embeddings equal upstream's, from any thread; blends and uploads are validated."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magenta_bento import style as style_module
from magenta_bento.config import Settings
from magenta_bento.errors import InvalidInput, WeightsError
from magenta_bento.style import StyleEncoder, blend
from magenta_bento.weights.catalog import locate

ROOT = Path(__file__).parent.parent
DIR = locate("demo", Settings.from_env({})).musiccoca_dir


@pytest.fixture(scope="module")
def upstream() -> Any:
    from magenta_rt import musiccoca

    return musiccoca.MusicCoCa(DIR)


@pytest.fixture
def encoder() -> StyleEncoder:
    return StyleEncoder(DIR)


def tune(seconds: float, rate_hz: int, channels: int = 2) -> np.ndarray:
    """A few decaying notes, float32 [T, C]."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    decay = np.exp(-3 * (2 * t % 1))
    mono = sum(0.1 * decay * np.sin(2 * np.pi * f * t) for f in (220, 277.2, 440, 1760))
    return np.stack([mono * (1 - 0.1 * c) for c in range(channels)], axis=1).astype(np.float32)


def calls_of(monkeypatch: pytest.MonkeyPatch, encoder: StyleEncoder, method: str) -> list[Any]:
    """Counts how often a method of the model behind an encoder runs."""
    inner, calls = getattr(encoder._model, method), []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return inner(*args, **options)

    monkeypatch.setattr(encoder._model, method, counted)
    return calls


@pytest.mark.parametrize("use_mapper", [True, False])
@pytest.mark.parametrize("prompt", ["disco funk", "Ünïcode 🎷 JAZZ", "", "word " * 500])
def test_text_is_embedded_as_upstream_does(
    encoder: StyleEncoder, upstream: Any, prompt: str, use_mapper: bool
) -> None:
    ours = encoder.embed_text(prompt, use_mapper)
    assert (ours.shape, ours.dtype) == ((768,), np.float32)
    np.testing.assert_array_equal(ours, upstream.embed(prompt, use_mapper=use_mapper, seed=0))


def test_the_mapper_moves_an_embedding(encoder: StyleEncoder) -> None:
    plain, mapped = (encoder.embed_text("disco funk", m) for m in (False, True))
    assert not np.array_equal(plain, mapped)


@pytest.mark.parametrize("seconds", [0.001, 1.0, 10.0, 25.0])
def test_audio_is_embedded_as_upstream_does(
    encoder: StyleEncoder, upstream: Any, seconds: float
) -> None:
    """At 16 kHz, where neither resamples: short audio padded, long audio averaged."""
    from magenta_rt import audio

    samples = tune(seconds, 16_000)
    ours = encoder.embed_audio(samples, 16_000)
    assert (ours.shape, ours.dtype) == ((768,), np.float32)
    theirs = upstream.embed(audio.Waveform(samples, 16_000))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 192_000])
def test_the_sample_rate_hardly_matters(encoder: StyleEncoder, rate_hz: int) -> None:
    at_16k = encoder.embed_audio(tune(3, 16_000), 16_000)
    resampled = encoder.embed_audio(tune(3, rate_hz), rate_hz)
    cosine = at_16k @ resampled / np.linalg.norm(at_16k) / np.linalg.norm(resampled)
    assert cosine > (0.999 if rate_hz > 16_000 else 0.99)  # 8 kHz has no treble


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_number_of_channels(encoder: StyleEncoder, channels: int) -> None:
    samples = tune(1, 48_000, channels)
    mono = samples.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        encoder.embed_audio(samples, 48_000), encoder.embed_audio(mono, 48_000), atol=1e-5
    )


def test_a_single_sample_is_padded(encoder: StyleEncoder) -> None:
    assert np.isfinite(encoder.embed_audio(np.ones((1, 1), np.float32), 192_000)).all()


def test_no_samples_are_refused(encoder: StyleEncoder) -> None:
    with pytest.raises(InvalidInput, match="sample_file: must hold at least one sample, got 0"):
        encoder.embed_audio(np.zeros((0, 2), np.float32), 48_000, field="sample_file")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(encoder: StyleEncoder, bad: float) -> None:
    samples = tune(1, 48_000)
    samples[100, 1] = bad
    with pytest.raises(InvalidInput, match="audio: must hold finite samples only"):
        encoder.embed_audio(samples, 48_000)


def test_tokens_are_upstreams(encoder: StyleEncoder, upstream: Any) -> None:
    embedding = encoder.embed_text("disco funk")
    tokens = encoder.tokenize(embedding)
    assert (tokens.shape, tokens.dtype) == ((12,), np.int32)
    assert ((tokens >= 0) & (tokens < 1024)).all()
    np.testing.assert_array_equal(tokens, upstream.tokenize(embedding))


def test_different_prompts_have_different_tokens(encoder: StyleEncoder) -> None:
    tokens = {tuple(encoder.tokenize(encoder.embed_text(p))) for p in ("disco funk", "jazz trio")}
    assert len(tokens) == 2


def test_embeddings_are_read_only(encoder: StyleEncoder) -> None:
    for embedding in (encoder.embed_text("a"), encoder.embed_audio(tune(1, 48_000), 48_000)):
        with pytest.raises(ValueError, match="read-only"):
            embedding[0] = 1


def test_text_is_cached_by_prompt_and_mapper(
    encoder: StyleEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch, encoder, "embed_batch_text")
    for _ in range(3):
        encoder.embed_text("a", True)
        encoder.embed_text("a", False)
        encoder.embed_text("A", True)
    assert len(calls) == 3


def test_audio_is_cached_by_samples_shape_and_rate(
    encoder: StyleEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch, encoder, "embed_batch_audio")
    samples = tune(1, 48_000)
    for _ in range(3):
        encoder.embed_audio(samples.copy(), 48_000)
        encoder.embed_audio(samples, 44_100)
        encoder.embed_audio(samples.reshape(-1, 1), 48_000)
        encoder.embed_audio(np.asfortranarray(samples * 0.5), 48_000)
    assert len(calls) == 4


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_module, "_CACHED_EMBEDDINGS", 2)
    encoder = StyleEncoder(DIR)
    calls = calls_of(monkeypatch, encoder, "embed_batch_text")
    for prompt in ("a", "b", "a", "c", "a", "b"):
        encoder.embed_text(prompt)
    assert [args[0][0] for args in calls] == ["a", "b", "c", "b"]


def test_one_prompt_from_many_threads_is_computed_once(
    encoder: StyleEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch, encoder, "embed_batch_text")
    barrier = threading.Barrier(8)

    def work(_: int) -> bytes:
        barrier.wait()
        return encoder.embed_text("disco funk").tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    assert len(calls) == 1


def test_threads_get_what_one_thread_gets(encoder: StyleEncoder) -> None:
    """LiteRT's interpreters answer wrongly, or not at all, when two threads share one."""
    prompts = [f"prompt {i}" for i in range(200)]
    clips = [tune(0.2, 16_000) * (i + 1) / 20 for i in range(20)]

    def text(encoder: StyleEncoder, prompt: str) -> tuple[bytes, bytes]:
        embedding = encoder.embed_text(prompt)
        return embedding.tobytes(), encoder.tokenize(embedding).tobytes()

    alone = StyleEncoder(DIR)
    expected_text = [text(alone, prompt) for prompt in prompts]
    expected_audio = [alone.embed_audio(clip, 16_000).tobytes() for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        texts = [pool.submit(text, encoder, prompt) for prompt in prompts]
        audios = [pool.submit(encoder.embed_audio, clip, 16_000) for clip in clips]
        assert [future.result() for future in texts] == expected_text
        assert [future.result().tobytes() for future in audios] == expected_audio


def test_warm_up_loads_everything(encoder: StyleEncoder) -> None:
    encoder.warm_up()
    loaded = vars(encoder._model)
    interpreters = ("text_encoder", "audio_preprocessor", "music_encoder", "quantizer", "mapper")
    assert all(f"_{name}" in loaded for name in interpreters)


def test_warm_up_tells_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"can't be loaded: .*not found"):
        StyleEncoder(tmp_path).warm_up()


def test_importing_the_module_does_no_work() -> None:
    slow = ("jax", "magenta_rt.musiccoca")
    code = f"import sys, magenta_bento.style; sys.exit(any(n in sys.modules for n in {slow}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


ONE = np.zeros(768, np.float32)
ONE[0] = 1
OTHER = np.zeros(768, np.float32)
OTHER[1] = 1


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1], (0.5, 0.5)),
        ([2, 2], (0.5, 0.5)),
        ([3, 1], (0.75, 0.25)),
        ([0.002, 0.006], (0.25, 0.75)),
        ([3, -1], (1.5, -0.5)),
    ],
)
def test_blend_is_the_weighted_mean(weights: list[float], expected: tuple[float, float]) -> None:
    blended = blend([ONE, OTHER], weights)
    assert (blended.shape, blended.dtype) == ((768,), np.float32)
    np.testing.assert_allclose(blended[:2], expected, rtol=1e-6)
    assert not blended[2:].any()


@pytest.mark.parametrize("weight", [1, 0.1, 7, 1e-300])
def test_a_blend_of_one_is_itself(encoder: StyleEncoder, weight: float) -> None:
    embedding = encoder.embed_text("disco funk")
    np.testing.assert_array_equal(blend([embedding], [weight]), embedding)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "w: must be one for each of 2 prompts, got 1"),
        ([1, 1, 1], "w: must be one for each of 2 prompts, got 3"),
        ([1, 0], r"w\[1\]: must be finite and not 0, got 0"),
        ([math.nan, 1], r"w\[0\]: must be finite and not 0, got nan"),
        ([1, -math.inf], r"w\[1\]: must be finite and not 0, got -inf"),
        ([1, -1], "w: must have a positive sum that is finite, got 0"),
        ([1, -2], "w: must have a positive sum that is finite, got -1"),
        ([1e308, 1e308], "w: must have a positive sum that is finite, got inf"),
    ],
)
def test_blend_refuses(weights: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        blend([ONE, OTHER], weights, field="w")


def test_blend_refuses_a_sum_next_to_0() -> None:
    with pytest.raises(InvalidInput, match="must have a sum further from 0"):
        blend([ONE, OTHER, ONE], [1e300, -1e300, 1e-300])


def test_blend_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must hold at least one, got 0"):
        blend([], [])
