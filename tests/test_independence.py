"""A stream's codes depend on its own request alone, whoever plays beside it and wherever.

Neighbours are poisoned with NaN: what leaks from them is seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_model import read, rig, styled, until
from numpy.typing import NDArray

from magenta_bento import conditioning
from magenta_bento.config import Settings
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.protocol import State, StepInputs
from magenta_bento.timeline import Timeline
from magenta_bento.weights.catalog import locate

FRAMES = 40
BLOCK = 2

Codes = NDArray[np.int32]  # [frames / BLOCK, 12], at each step's end


class Batch:
    """A state, and who plays in which of its rows."""

    def __init__(self, model: JaxModel, size: int) -> None:
        self.model = model
        self.state: State = model.init_state(size)
        self.rows: list[Timeline | None] = [None] * size

    def join(self, row: int, seed: int, style: Timeline) -> None:
        self.state = self.model.insert(self.state, row, seed)
        self.rows[row] = style

    def resize(self, rows: Sequence[int], size: int) -> None:
        self.state = self.model.resize(self.state, rows, size)
        kept = [self.rows[row] for row in rows]
        self.rows = [*kept, *[None] * (size - len(kept))]

    def step(self, still: Sequence[int] = ()) -> Codes:
        """int32 [B, 12]."""
        size = len(self.rows)
        inputs = StepInputs(
            np.full((size, BLOCK, conditioning.SIZE), 6, np.int32),
            np.ones((size, BLOCK), np.float32),
            np.full((size, BLOCK), 40, np.int32),
            np.ones(size, np.bool_),
        )
        for row, style in enumerate(self.rows):
            inputs.active[row] = row not in still
            if style is not None:
                style.read(0, inputs.tokens[row], inputs.temperature[row], inputs.top_k[row])
        self.state, _ = self.model.step(self.state, inputs)
        return codes_of(self.state)

    def poison(self, rows: Sequence[int]) -> None:
        """Fills the rows' numbers with NaN, and their random keys with ones."""

        def spoil(leaf: jax.Array) -> jax.Array:
            bad = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else None
            if leaf.dtype == jnp.uint32:
                bad = 0xFFFFFFFF
            return leaf if bad is None else leaf.at[jnp.array(rows)].set(bad)

        self.state = jax.tree.map(spoil, self.state)


def codes_of(state: State) -> Codes:
    return np.array(state[0][1].values[:, 0])


def solo(model: JaxModel, size: int, seed: int, style: Timeline) -> Codes:
    batch = Batch(model, size)
    batch.join(0, seed, style)
    return np.stack([batch.step()[0] for _ in range(FRAMES // BLOCK)])


def row_of(state: State, row: int) -> list[NDArray[Any]]:
    return [np.array(leaf[row]) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def alone(demo_model: JaxModel) -> Codes:
    return solo(demo_model, 1, 11, styled(5))


@pytest.fixture(scope="module")
def half(demo_model: JaxModel) -> JaxModel:
    """Computes in bfloat16; after the demo, whose loading sets the compilation cache up."""
    model = JaxModel(
        ARCHITECTURES["demo"],
        locate("demo", Settings()),
        max_frames=BLOCK,
        compute_dtype=jnp.bfloat16,
        exact_codec=True,
    )
    model.compile([4])
    return model


@pytest.mark.parametrize("row", range(4))
def test_poisoned_neighbours(demo_model: JaxModel, alone: Codes, row: int) -> None:
    others = [other for other in range(4) if other != row]
    batch = Batch(demo_model, 4)
    batch.join(row, 11, styled(5))
    for step in range(FRAMES // BLOCK):
        batch.poison(others)
        np.testing.assert_array_equal(batch.step()[row], alone[step])


def test_a_slot_that_held_poison_is_as_good_as_new(demo_model: JaxModel, alone: Codes) -> None:
    batch = Batch(demo_model, 4)
    batch.poison(range(4))
    batch.step()
    batch.join(2, 11, styled(5))
    for codes in alone:
        np.testing.assert_array_equal(batch.step()[2], codes)


def test_joins_leaves_and_slot_reuse(demo_model: JaxModel, alone: Codes) -> None:
    batch = Batch(demo_model, 4)
    for step, codes in enumerate(alone):
        if step == 0:
            batch.join(1, 11, styled(5))
        if step in (3, 9):
            batch.join(0, step, styled(step, temperature=2.0))
        if step == 6:
            batch.join(3, 99, styled(9, top_k=3))
        if step == 12:
            batch.rows[3] = None
        np.testing.assert_array_equal(batch.step()[1], codes)


def test_moves_between_batch_sizes(demo_model: JaxModel, alone: Codes) -> None:
    batch, row = Batch(demo_model, 1), 0
    batch.join(0, 11, styled(5))
    for step, codes in enumerate(alone):
        if step == 4:
            batch.resize([0], 4)
            batch.join(3, 12, styled(6))
        if step == 12:
            batch.resize([row], 1)
        np.testing.assert_array_equal(batch.step()[row], codes)


def test_shrinking_takes_the_row_it_is_told(demo_model: JaxModel, alone: Codes) -> None:
    batch, row = Batch(demo_model, 4), 2
    batch.join(2, 11, styled(5))
    batch.join(0, 12, styled(6))
    for step, codes in enumerate(alone):
        if step == 7:
            batch.resize([2], 1)
            row = 0
        if step == 14:
            batch.resize([0], 4)
        np.testing.assert_array_equal(batch.step()[row], codes)


def test_inactive_rows_stand_still(demo_model: JaxModel, alone: Codes) -> None:
    batch = Batch(demo_model, 4)
    batch.join(0, 11, styled(5))
    batch.join(1, 11, styled(5))
    steps = 0
    for step, codes in enumerate(alone):
        before = row_of(batch.state, 1)
        still = [1] if step % 3 else []
        got = batch.step(still)
        np.testing.assert_array_equal(got[0], codes)
        if still:
            for old, new in zip(before, row_of(batch.state, 1), strict=True):
                np.testing.assert_array_equal(old, new)
        else:
            np.testing.assert_array_equal(got[1], alone[steps])
            steps += 1
    assert steps > 5


@pytest.mark.long
def test_in_bfloat16_a_row_depends_on_its_neighbours_no_more(half: JaxModel) -> None:
    """At one batch size; other sizes may round otherwise."""
    wanted = solo(half, 4, 11, styled(5))
    for row in (0, 3):
        batch = Batch(half, 4)
        batch.join(row, 11, styled(5))
        for step, codes in enumerate(wanted):
            batch.poison([other for other in range(4) if other != row])
            if step == 5:
                batch.join((row + 1) % 4, 12, styled(6))
            np.testing.assert_array_equal(batch.step()[row], codes)


async def test_through_the_engine_company_is_not_heard(demo_model: JaxModel) -> None:
    """Streams that join, stand still, leave and reuse slots, each beside its solo run."""
    requests = [(seed, 10 + 7 * seed, styled(seed)) for seed in range(7)]
    with rig(demo_model) as made:
        alone = [await read(made.submit(n, seed=seed, style=style)) for seed, n, style in requests]
        still = made.submit(None, seed=50, lead=3)
        await until(lambda: still.frames_made == 3)
        streams = [made.submit(n, seed=seed, style=style) for seed, n, style in requests]
        gone = made.submit(1_000, seed=51)
        together = await asyncio.gather(*(read(stream) for stream in streams))
        gone.cancel()
        still.cancel()
        await made.at_rest()
        assert made.metric("step_failures_total") == 0
    for solo_run, in_company in zip(alone, together, strict=True):
        difference = np.abs(solo_run.astype(np.int32) - in_company)
        assert difference.max() <= 1  # the codec rounds otherwise at another batch size
