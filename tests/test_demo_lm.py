"""The demo's language model in training: the same mathematics as served, honest labels."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import pytest
import sequence_layers.jax as sl
from magenta_rt.config import ModelSpec

from magenta_bento import conditioning
from magenta_bento.model.architecture import ARCHITECTURES, DemoModel
from tools.demo_model import checkpoint, measures
from tools.demo_model.lm import batches, conditions, network, objective, parameters, takes
from tools.demo_model.lm.pieces import Pieces

pytestmark = pytest.mark.tools

DEMO = ARCHITECTURES["demo"]
FRAMES = 14


class Tiny(DemoModel):  # type: ignore[misc]  # upstream is untyped
    encoder_size = ModelSpec(model_dims=8)
    decoder_temporal_size = ModelSpec(
        num_layers=2,
        model_dims=16,
        hidden_dims=24,
        num_heads=2,
        dim_per_head=8,
        ffn_use_gated_activation=False,
    )
    decoder_depth_size = dataclasses.replace(decoder_temporal_size, num_layers=1, model_dims=12)
    decoder_temporal_self_attention_max_past_horizon = 5
    compute_dtype = jnp.float32


class TinyWithoutPositions(Tiny):
    """As upstream's own models: no positions, sinks with keys and values."""

    use_rope = False
    num_attention_sink_embeddings = 1
    use_attention_sink_scalars = False
    decoder_temporal_cross_attention_max_past_horizon = 3


def _random_conditioning(random: np.random.RandomState, *shape: int) -> np.ndarray:
    highest = np.array([1_030] * 12 + [10] * 128 + [8] + [47] * 2 + [15])
    lowest = np.array([6] * 141 + [7] * 3)
    return (lowest + random.uniform(size=(*shape, 144)) * (highest - lowest + 1)).astype(np.int32)


def _sampled(
    parameters: dict[str, np.ndarray], model: type[DemoModel], tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What upstream's sampler draws, int32 [B, T, 12], and its logits [B, T, 12, 1024]."""
    module = model().depthformer_config().make()
    variables = flax.traverse_util.unflatten_dict(parameters, sep="/")["params"]["depthformer"]
    variables = {"params": variables}
    batch = len(tokens)
    constants = {"temperature": jnp.ones(batch), "top_k": jnp.full(batch, 1_024, jnp.int32)}
    state = module.apply(
        variables,
        batch,
        jax.ShapeDtypeStruct([144], jnp.int32),
        training=False,
        constants={},
        rngs={"random": jax.random.PRNGKey(0)},
        method=lambda module, *a, **k: module.sampler.get_initial_state(*a, **k),
    )

    # It runs a few times: compiling it well would take longer than that saves.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(state: Any, frame: jax.Array) -> Any:
        (codes, state), kept = module.apply(
            variables,
            sl.Sequence.from_values(frame),
            state,
            training=False,
            constants=constants,
            mutable=["intermediates"],
            method=lambda module, *a, **k: module.sampler.step(*a, **k),
        )
        logits = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape[-1] == 12_294]
        return codes.values, state, jnp.concatenate(logits, axis=1)

    drawn, scored = [], []
    for frame in range(tokens.shape[1]):
        codes, state, logits = step(state, tokens[:, frame : frame + 1])
        drawn.append(codes)
        scored.append(np.tanh(np.asarray(logits) / 30) * 30)
    levels = [
        np.stack(scored, 1)[:, :, level, 6 + 1_024 * level :][..., :1_024] for level in range(12)
    ]
    return (np.concatenate(drawn, axis=1) - 6) % 1_024, np.stack(levels, axis=2)


@pytest.mark.parametrize("model", [Tiny, TinyWithoutPositions])
def test_the_training_pass_has_the_logits_of_upstreams_sampler(model: type[DemoModel]) -> None:
    random = np.random.RandomState(0)
    architecture = dataclasses.replace(DEMO, model_class=model)
    shapes = jax.eval_shape(
        lambda key: checkpoint.initial(architecture, key), jax.random.PRNGKey(0)
    )
    stored = {
        name: (0.4 * random.standard_normal(leaf.shape) + name.endswith("norm/scale")).astype(
            np.float32
        )
        for name, leaf in shapes.items()
        if name.startswith(network.PREFIX)
    }
    tokens = _random_conditioning(random, 2, FRAMES)
    codes, expected = _sampled(stored, model, tokens)

    params, sizes = network.from_checkpoint(stored), network.Sizes.of(model)
    embedded = network.embed(params, codes)
    first = jnp.broadcast_to(network.start(params), (2, 1, 16))
    frames = jnp.concatenate([first, embedded.mean(2)[:, :-1]], axis=1)
    hidden = network.temporal(params, sizes, frames, network.encode(params, sizes, tokens))
    flat = codes.reshape(-1, 12)
    x = network.depth(
        params, sizes, hidden.reshape(-1, 16), network.embed_before_last(params, flat)
    )
    found = network.logits(params, x).reshape(expected.shape)
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)

    # The objective sees the same, through its own arrangement of the head.
    log_p = jax.nn.log_softmax(expected / objective.TEMPERATURE)
    nll = -np.take_along_axis(np.asarray(log_p), codes[..., None], -1).mean((0, 1))[:, 0]
    previous = np.concatenate([codes[:, :1], codes[:, :-1]], axis=1)
    fresh = np.arange(FRAMES) == np.zeros((2, 1))
    everything = np.arange(2 * FRAMES)
    _, levels = objective.loss(params, sizes, previous, fresh, tokens, codes, everything)
    np.testing.assert_allclose(levels, nll, atol=1e-4)


def test_the_heads_gradients_are_those_of_the_plain_formula() -> None:
    random = np.random.RandomState(1)
    x, kernel, bias = (random.standard_normal(s) for s in ((9, 8), (8, 1_024), (1_024,)))
    targets = random.randint(1_024, size=9)

    def plain(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        logits = 30 * jnp.tanh((x @ kernel + bias) / 30) / objective.TEMPERATURE
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1).mean()

    lean = lambda *inputs: objective.mean_nll(*inputs, targets)  # noqa: E731
    expected = jax.grad(lambda *i: 3 * plain(*i), (0, 1, 2))(x, kernel, bias)
    found = jax.grad(lambda *i: 3 * lean(*i), (0, 1, 2))(x, kernel, bias)
    np.testing.assert_allclose(lean(x, kernel, bias), plain(x, kernel, bias), rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_it_starts_and_is_saved_with_the_names_of_a_real_checkpoint(tmp_path: Path) -> None:
    random = np.random.RandomState(2)
    books = random.standard_normal((12, 1_024, 16)).astype(np.float32)
    params = parameters.initial(DEMO, books, books, seed=0)
    parameters.save(params, tmp_path / "lm.npz")
    saved = parameters.load(tmp_path / "lm.npz")
    shapes = jax.eval_shape(lambda key: checkpoint.initial(DEMO, key), jax.random.PRNGKey(0))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in saved.items()} == {
        name: (leaf.shape, leaf.dtype)
        for name, leaf in shapes.items()
        if name.startswith(network.PREFIX)
    }
    again = network.from_checkpoint(saved)
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value)

    # A style's twelve rows add up to what its codes do; nothing given adds nothing.
    codes = random.randint(1_024, size=12)
    rows = np.arange(12) * 1_031 + 7 + codes
    table = saved[network.PREFIX + network.STYLE_TABLE]
    np.testing.assert_allclose(table[rows].sum(0), books[np.arange(12), codes].sum(0), rtol=1e-5)
    assert not table[np.arange(12) * 1_031 + 6].any()


@pytest.fixture(scope="module")
def material() -> batches.Material:
    """Each code tells its piece and its frame; so do the labels."""
    random = np.random.RandomState(3)
    count, frames = 5, 40
    frame = np.arange(frames) + frames * np.arange(count)[:, None]
    notes = np.zeros((count, frames, 128), np.int8)
    notes[..., 60] = 1
    notes[:, ::4, 60] = 2
    pieces = Pieces(
        codes=np.repeat(frame[..., None], 12, axis=-1).astype(np.int16),
        notes=notes,
        drums=(frame % 2).astype(np.int8),
        by_hand=np.arange(count) == 0,
        weights=np.full((count, 2), 0.5, np.float32),
        summaries=np.zeros((count, 2, 2, 3), np.float32),
        captions=np.array([[["a", "ab"]] * 2] * count),
    )
    wishes = random.randint(1_024, size=(count, 4, 12)).astype(np.int16)
    return batches.Material(pieces, wishes, silence=np.full(12, 999))


def _labels(
    style: int, notes: int, drums: int, frames: int = 20, by_hand: bool = False
) -> conditions.Labels:
    pitches = np.zeros((frames, 128), np.int8)
    pitches[:, notes] = 1
    pitches[0, notes] = 2
    return conditions.Labels(
        np.full((frames, 12), style),
        pitches,
        np.full(frames, drums, np.int8),
        np.full(frames, by_hand),
    )


def test_low_guidance_may_lie_and_high_guidance_does_not() -> None:
    random = np.random.RandomState(4)
    own, other = _labels(1, 60, 1), _labels(2, 72, 0)
    drawn = np.stack([conditions.draw(own, other, random) for _ in range(2_000)])
    drawn = drawn - conditioning.TOKEN_OFFSET
    style_at = drawn[:, -1, -3] * 0.2 - 1
    for column, guidance, given_share, trusted in (
        (drawn[:, -1, 0], style_at, 0.85, 3.0),
        (drawn[:, -1, 140], drawn[:, -1, -1] - 1.0, 0.55, 1.0),
    ):
        assert np.mean(column >= 0) == pytest.approx(given_share, abs=0.05)
        sure = (guidance >= trusted + 0.5) & (column >= 0)
        lies = (guidance < -0.5) & (column >= 0)
        assert sure.sum() > 50
        assert (column[sure] == 1).all()
        assert lies.sum() > 20
        assert (column[lies] != 1).all()
    between = (style_at > 1) & (style_at < 2) & (drawn[:, -1, 0] >= 0)
    assert 0.3 < np.mean(drawn[between, -1, 0] == 1) < 0.7


def test_labels_look_as_served_whatever_is_left_out() -> None:
    random = np.random.RandomState(5)
    drawn = np.stack(
        [conditions.draw(_labels(1, 60, 1), _labels(2, 72, 0), random) for _ in range(500)]
    )
    assert drawn.dtype == np.int32
    assert drawn.shape == (500, 20, conditioning.SIZE)
    drawn = drawn - conditioning.TOKEN_OFFSET
    notes = drawn[:, :, 12:140]
    assert set(np.unique(notes)) == {-1, 0, 1, 2, 3}
    assert set(np.unique(drawn[:, :, 140])) == {-1, 0, 1}
    assert drawn[:, :, 141:143].min() == 0
    assert drawn[:, :, 141:143].max() == 39  # 6.8, the last that the model has an embedding for
    given = (notes[:, -1] >= 0).any(axis=1)
    assert np.mean(given) == pytest.approx(0.6, abs=0.08)
    partly = given & (notes[:, -1] < 0).any(axis=1)
    assert 0.2 < partly.sum() / given.sum() < 0.7
    # Guidance is one for the whole stretch, and default most of the time.
    assert (drawn[:, :, 141:] == drawn[:, :1, 141:]).all()
    assert np.mean(drawn[:, 0, 141] == 20) > 0.5


def test_notes_by_hand_are_always_given_and_true() -> None:
    random = np.random.RandomState(6)
    own, other = _labels(1, 60, 1, by_hand=True), _labels(2, 72, 0)
    labels = conditions.joined([own, other])
    for _ in range(200):
        drawn = conditions.draw(labels, labels, random) - conditioning.TOKEN_OFFSET
        notes = drawn[:20, 12:140]
        assert set(notes[:, 60]) <= {1, 2, 3}
        assert (np.delete(notes, 60, axis=1) <= 0).all()


def test_a_take_tells_what_it_is_made_of() -> None:
    plain, by_hand, blended = takes.plain(3), takes.by_hand(3), takes.blended(3)
    for take in (plain, by_hand, blended):
        assert take.samples.shape == (takes.FRAMES * 1_920, 2)
        assert np.abs(take.samples).max() <= 1
        assert sum(take.weights) == pytest.approx(1)
    assert plain.styles[0] is plain.styles[1]
    assert by_hand.by_hand
    usual = by_hand.styles[0]
    assert not np.array_equal(by_hand.notes, usual.notes)
    np.testing.assert_array_equal(by_hand.drums, usual.drumming)
    first, second = blended.styles
    assert first.style.family != second.style.family
    assert (first.style.bpm, first.style.key) == (second.style.bpm, second.style.key)
    share = np.sum(blended.samples * first.samples) / np.sum(first.samples**2)
    assert share == pytest.approx(blended.weights[0] / np.hypot(*blended.weights), abs=0.1)


def test_what_is_held_is_what_sounds() -> None:
    heard, right = 0, 0
    for number in range(6):
        take = takes.by_hand(number)
        held = (take.notes > 0).sum(axis=1) == 1
        classes = measures.pitch_classes(take.samples)
        alone = held & (classes >= 0) & (take.drums == 0)
        heard += alone.sum()
        right += (classes == take.notes.argmax(axis=1) % 12)[alone].sum()
    assert heard > 300
    assert right / heard > 0.85


def test_batches_are_aligned_and_the_same_each_time(material: batches.Material) -> None:
    draw = lambda number: batches.draw(material, 7, number, windows=40, frames=16, share=0.5)  # noqa: E731
    batch, again, other = draw(3), draw(3), draw(4)
    for field in dataclasses.fields(batches.Batch):
        one = getattr(batch, field.name)
        np.testing.assert_array_equal(one, getattr(again, field.name))
        assert not np.array_equal(one, getattr(other, field.name))
    assert batch.chosen.shape == (40 * 16 // 2,)
    # Frame t follows frame t - 1, but where one was made wrong or a window jumps or goes astray.
    assert np.mean(batch.previous[..., 0] + 1 == batch.codes[..., 0]) > 0.4
    np.testing.assert_array_equal(batch.fresh[:, 1:], False)
    np.testing.assert_array_equal(batch.codes[batch.fresh[:, 0], 0, 0] % 40, 0)
    assert 0.2 < batch.fresh[:, 0].mean() < 0.8


def test_labels_are_of_the_frames_themselves(material: batches.Material) -> None:
    """Where they are learnt from: elsewhere a window may be astray."""
    batch = batches.draw(material, 7, 0, windows=600, frames=16, share=0.5)
    learnt = np.isin(np.arange(600 * 16), batch.chosen).reshape(600, 16)
    drums = batch.conditioning[..., 140] - conditioning.TOKEN_OFFSET
    guidance = batch.conditioning[..., 143] - conditioning.TOKEN_OFFSET - 1.0  # to the nearest 1
    sure = guidance > conditions.DRUMS_TRUSTED
    given = (drums >= 0) & sure
    assert (given & learnt).sum() > 500
    right = drums == batch.codes[..., 0] % 2
    assert right[given & learnt].all()
    assert 0.02 < np.mean(~right[given]) < 0.3  # astray, half of them by chance right


def test_shards_are_trained_on_or_held_out(material: batches.Material, tmp_path: Path) -> None:
    pieces = material.pieces
    for shard in range(9):
        own = dataclasses.replace(pieces, drums=np.full_like(pieces.drums, shard))
        own.save(shard, tmp_path)
    held_out, trained = (Pieces.load(held_out=h, folder=tmp_path) for h in (True, False))
    assert set(np.unique(held_out.drums)) == {0, 8}
    assert set(np.unique(trained.drums)) == set(range(1, 8))
    assert len(trained) == 7 * len(pieces)
