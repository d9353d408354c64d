"""Our sampling from a level's slice against upstream's from the whole vocabulary, to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import pytest
import sequence_layers.jax as sl
from magenta_rt.jax import depthformer
from numpy.typing import NDArray

from magenta_bento.model import sampling

CODES = 1_024
LEVELS = 12
RESERVED = 6
VOCABULARY = RESERVED + LEVELS * CODES
LOWEST = np.float32(sampling._LOWEST)


def keys_of(seeds: range) -> jax.Array:
    """uint32 [len(seeds), 2]."""
    return jax.vmap(jax.random.PRNGKey)(jnp.array(seeds))


@pytest.mark.parametrize(("start", "size"), [(0, 1), (6, 1_024), (11_270, 1_024), (5_000, 3)])
def test_noise_of_a_slice_is_the_slice_of_the_noise(start: int, size: int) -> None:
    keys = keys_of(range(200))
    whole = jax.vmap(lambda key: jax.random.gumbel(key, (1, VOCABULARY)))(keys)
    part = jax.jit(sampling.gumbel_slice, static_argnums=(1, 2))(keys, start, size)
    np.testing.assert_array_equal(part, whole[:, 0, start : start + size])


def test_another_generator_is_refused() -> None:
    with (
        jax.threefry_partitionable(False),
        pytest.raises(RuntimeError, match="jax_threefry_partitionable"),
    ):
        sampling.gumbel_slice(keys_of(range(1)), 0, 1)


def sorted_top_k(logits: NDArray[np.float32], top_k: int) -> NDArray[np.float32]:
    """Upstream's way, for one row."""
    kth = np.sort(logits)[-np.clip(top_k, 1, len(logits))]
    return np.where(logits >= kth, logits, LOWEST)


def awkward_rows() -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    normal = draw.standard_normal(CODES).astype(np.float32) * 5
    few = draw.integers(-3, 3, CODES).astype(np.float32)
    signed_zeros = np.where(few == 0, -0.0, np.abs(few)).astype(np.float32)
    signed_zeros[::3] = 0.0
    infinite = normal.copy()
    infinite[::7], infinite[1::7] = np.inf, -np.inf
    tiny = (draw.standard_normal(CODES) * 1e-30).astype(np.float32)
    extreme = np.where(draw.random(CODES) < 0.5, 3.4e38, -3.4e38).astype(np.float32)
    return {
        "normal": normal,
        "ties": few,
        "all equal": np.zeros(CODES, np.float32),
        "signed zeros": signed_zeros,
        "negative": -np.abs(normal) - 1,
        "infinities": infinite,
        "tiny": tiny,
        "extreme": extreme,
        "masked": np.where(draw.random(CODES) < 0.9, LOWEST, normal).astype(np.float32),
    }


def test_keep_top_k_keeps_what_sorting_keeps() -> None:
    rows, ks = awkward_rows(), [1, 2, 40, 1_023, 1_024, 0, -5, 1_025, 100_000]
    logits = np.repeat(np.stack(list(rows.values())), len(ks), axis=0)
    top_k = np.tile(np.array(ks, np.int32), len(rows))
    kept = jax.jit(sampling.keep_top_k)(logits, top_k)
    for row, (wanted_k, got) in enumerate(zip(top_k, np.asarray(kept), strict=True)):
        expected = sorted_top_k(logits[row], wanted_k)
        np.testing.assert_array_equal(got, expected, err_msg=f"row {row}, k {wanted_k}")


def test_keep_top_k_for_every_k() -> None:
    logits = np.random.default_rng(1).standard_normal(64).astype(np.float32).round(1)  # with ties
    top_k = np.arange(1, 65, dtype=np.int32)
    kept = sampling.keep_top_k(jnp.tile(logits, (64, 1)), jnp.array(top_k))
    for k, got in zip(top_k, np.asarray(kept), strict=True):
        np.testing.assert_array_equal(got, sorted_top_k(logits, k))


@pytest.mark.parametrize("batch", [1, 3])
def test_codes_equal_upstreams(batch: int) -> None:
    """The same keys, full-vocabulary logits, temperature and top-k, a row each."""

    @jax.jit
    def upstream(
        logits: jax.Array, keys: jax.Array, first: int, temperature: jax.Array, top_k: jax.Array
    ) -> jax.Array:
        places = jnp.arange(VOCABULARY)
        masked = jnp.where((places >= first) & (places < first + CODES), logits, LOWEST)
        drawn = depthformer._sample_categorical_with_temperature(
            sl.Sequence.from_values(masked[:, None]),
            temperature=temperature,
            top_k=top_k,
            top_p=None,
            rng_key=keys,
            classifier_free_guidance_scale=None,
            classifier_free_guidance_arity=0,
            valid_range=None,
        )
        return drawn.values[:, 0]

    ours = jax.jit(sampling.sample, static_argnums=2)
    draw = np.random.default_rng(2)
    temperatures = np.array([0.0, 0.3, 1.3, 3.0], np.float32)
    top_ks = np.array([1, 2, 40, 1_023, 1_024, 5_000], np.int32)
    codes = set()
    for trial in range(40):
        level = (0, 5, 11)[trial % 3]
        first = RESERVED + level * CODES
        logits = draw.standard_normal((batch, VOCABULARY)).astype(np.float32) * 3
        if trial % 4 == 0:
            logits = logits.round()  # ties
        temperature, top_k = draw.choice(temperatures, batch), draw.choice(top_ks, batch)
        keys = keys_of(range(trial * batch, (trial + 1) * batch))
        got = ours(logits[:, first : first + CODES], keys, first, temperature, top_k)
        wanted = upstream(logits, keys, first, temperature, top_k)
        np.testing.assert_array_equal(got, wanted, err_msg=f"trial {trial}")
        assert ((got >= first) & (got < first + CODES)).all()
        codes |= set(np.asarray(got).tolist())
    assert len(codes) > 10 * batch
