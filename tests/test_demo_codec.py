"""The demo's codec: its transform, its codebooks, and a decoder that is upstream's function."""

from __future__ import annotations

import flax.core.meta
import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import pytest
import sequence_layers.jax as sl
from magenta_rt.jax import spectrostream

from magenta_bento.model.architecture import ARCHITECTURES
from tools.demo_model.codec import decoder, loss, quantiser, transform
from tools.demo_model.codec.tokens import Codec

pytestmark = pytest.mark.tools

FRAMES = 9
LARGEST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def random() -> np.random.RandomState:
    return np.random.RandomState(0)


@pytest.fixture(scope="module")
def codec(random: np.random.RandomState) -> Codec:
    """Random layers and biases, a random codebook, and axes of the right shapes."""
    axes = np.linalg.qr(random.standard_normal((2 * transform.KEPT_BINS, quantiser.AXES)))[0]
    books = random.standard_normal((quantiser.LEVELS, quantiser.CODES, quantiser.AXES))
    parameters = {
        name: value + 0.1 * random.standard_normal(value.shape).astype(np.float32)
        if name.endswith("bias")
        else value
        for name, value in decoder.initial(0, books.astype(np.float32)).items()
    }
    weights = np.ones((2, transform.KEPT_BINS), np.float32)
    encoder = quantiser.Quantiser(weights, axes.astype(np.float32), books.astype(np.float32))
    return Codec(encoder, parameters)


@pytest.fixture(scope="module")
def upstream() -> spectrostream.SpectroStream:
    return ARCHITECTURES["demo"].spectrostream_config().make()


@pytest.fixture(scope="module")
def codes(random: np.random.RandomState) -> np.ndarray:
    return random.randint(0, quantiser.CODES, (2, FRAMES, quantiser.LEVELS)).astype(np.int32)


@pytest.fixture(scope="module")
def variables(codec: Codec) -> dict:
    return flax.traverse_util.unflatten_dict(decoder.exported(codec.parameters), sep="/")


def test_the_exported_parameters_are_upstreams_and_few(
    codec: Codec, upstream: spectrostream.SpectroStream, codes: np.ndarray
) -> None:
    shapes = jax.eval_shape(
        lambda: upstream.init(
            jax.random.PRNGKey(0),
            sl.Sequence.from_values(jnp.asarray(codes)),
            training=False,
            method=upstream.codes_to_waveform,
        )
    )
    wanted = flax.traverse_util.flatten_dict(flax.core.meta.unbox(shapes["params"]), sep="/")
    exported = codec.exported()
    assert {name: leaf.shape for name, leaf in exported.items()} == {
        f"params/soundstream/{name}": leaf.shape for name, leaf in wanted.items()
    }
    assert sum(leaf.nbytes for leaf in exported.values()) < LARGEST_BYTES


def test_the_training_decoder_is_upstreams(
    codec: Codec, upstream: spectrostream.SpectroStream, variables: dict, codes: np.ndarray
) -> None:
    sequence = sl.Sequence.from_values(jnp.asarray(codes))
    wanted = upstream.apply(
        {"params": variables}, sequence, training=False, method=upstream.codes_to_waveform
    ).values
    heard = decoder.samples(
        decoder.spectra(codec.parameters, decoder.embed(codec.parameters, codes))
    )
    scale = float(jnp.abs(wanted).max())
    samples = (FRAMES - 1) * transform.FRAME_SAMPLES
    np.testing.assert_allclose(heard[:, :samples], wanted[:, :samples], atol=1e-5 * scale)


def test_a_stream_plays_what_is_decoded_one_frame_later(
    codec: Codec, upstream: spectrostream.SpectroStream, variables: dict, codes: np.ndarray
) -> None:
    def step(module: spectrostream.SpectroStream, frame: np.ndarray, state: sl.State) -> tuple:
        sequence = sl.Sequence.from_values(jnp.asarray(frame))
        layer = module.get_codes_to_waveform_layer()
        if state is None:
            spec = sequence.channel_spec
            state = layer.get_initial_state(len(frame), spec, training=False)
        output, state = layer.step(sequence, state, training=False)
        return output.values, state

    played, state = [], None
    for frame in np.split(codes, FRAMES, axis=1):
        samples, state = upstream.apply({"params": variables}, frame, state, method=step)
        played.append(samples)
    stream = np.concatenate(played, axis=1)
    late = transform.FRAME_SAMPLES
    assert not stream[:, :late].any()
    heard = codec.decode(codes)[:, : (FRAMES - 1) * late]
    np.testing.assert_allclose(stream[:, late:], heard, atol=1e-5 * np.abs(heard).max())


def test_the_transform_gives_the_samples_back(
    random: np.random.RandomState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform, "KEPT_BINS", transform.FRAME_SAMPLES)
    samples = random.standard_normal((4 * transform.FRAME_SAMPLES, 2)).astype(np.float32)
    back = transform.frames(transform.spectra(samples))
    inside = slice(transform.OVERLAP_SAMPLES // 2, -transform.OVERLAP_SAMPLES // 2)
    np.testing.assert_allclose(back[inside], samples[inside], atol=1e-4)


def test_a_tone_is_few_coefficients() -> None:
    time_s = np.arange(4 * transform.FRAME_SAMPLES) / 48_000
    tone = np.stack([np.sin(2 * np.pi * 440 * time_s)] * 2, axis=1).astype(np.float32)
    mid, side = transform.spectra(tone)[2]
    strongest = np.sort(mid**2)[::-1]
    assert strongest[:8].sum() > 0.98 * strongest.sum()
    assert np.argmax(mid**2) == pytest.approx(440 / 12.5, abs=1)
    np.testing.assert_allclose(side, 0.0, atol=1e-12)


def test_encoding_is_residual_and_batched(codec: Codec, random: np.random.RandomState) -> None:
    samples = random.standard_normal((2, 3 * transform.FRAME_SAMPLES, 2)).astype(np.float32)
    codes = codec.encode(samples)
    assert codes.shape == (2, 3, quantiser.LEVELS)
    assert codes.dtype == np.int16
    points = codec.quantiser.features(samples[1])
    books = codec.quantiser.books
    distances = np.sum((points[:, None] - books[0]) ** 2, axis=-1)
    np.testing.assert_array_equal(codes[1, :, 0], distances.argmin(axis=1))
    left = points - books[0][codes[1, :, 0]]
    distances = np.sum((left[:, None] - books[1]) ** 2, axis=-1)
    np.testing.assert_array_equal(codes[1, :, 1], distances.argmin(axis=1))


def test_k_means_spends_few_codes_on_what_repeats(random: np.random.RandomState) -> None:
    points = random.standard_normal((3_000, 4)).astype(np.float32)
    points[:1_500] = points[0]  # silence, or a loop
    centres, labels = quantiser.k_means(points, random)
    assert len(np.unique(labels)) > 850
    left = np.mean((points - centres[labels]) ** 2)
    assert left < 0.05 * points.var()


def test_the_loss_is_zero_for_equal_sound_and_falls_towards_it(
    random: np.random.RandomState,
) -> None:
    samples = random.standard_normal((1, 24 * decoder.HOP, 2)).astype(np.float32)
    samples += np.roll(samples, 1, axis=1)  # without the Nyquist bin, which upstream drops
    spectra = loss.stft(jnp.asarray(samples))
    far, near, equal = (float(loss.distance(gain * spectra, samples)) for gain in (0.5, 0.9, 1.0))
    assert far > 4 * near > 0
    assert equal < 1e-5
