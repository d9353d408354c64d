"""``python -m tools.demo_model.lm.train --minutes N``: the language model, from token shards.

AdamW with a warm-up and a cosine that ends with the minutes; what is written is a moving average
of the weights, every few minutes and at the end, to ``.cache/demo_model/lm.npz``.

Invariant: the same shards, seed and number of steps give the same weights on one machine, but
for the rate, which follows the clock so that a slow machine too ends at a low one.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from magenta_bento.model.architecture import ARCHITECTURES, Architecture
from tools.demo_model import CACHE
from tools.demo_model.codec import tokens as codec
from tools.demo_model.lm import batches, network, objective, parameters, wishes
from tools.demo_model.lm.batches import Batch, Material
from tools.demo_model.lm.pieces import Pieces
from tools.demo_model.style.ear import Ear

STATE = CACHE / "lm_state.npz"
SEED = 20_260_701
WINDOWS, FRAMES = 6, 240
SHARE = 0.5  # of the frames to learn from: neighbours say much the same, the temporal body little
RATE, WARM_UP_STEPS, LOWEST = 2.5e-3, 150, 0.03
DECAY = 0.1
CLIP = 1.0
# These start that much larger than the others.
RATES = {network.CONTROL_TABLE: 20.0, network.STYLE + "depth_input_adapter/kernel": 5.0}
AVERAGED = 0.998
REPORT_STEPS, SAVE_S = 50, 150
CHECKED_BATCHES, CHECKED_SHARE = 4, 0.5

Tree = dict[str, Any]


def optimizer() -> optax.GradientTransformation:
    """All but the rate, which :func:`step` multiplies in."""
    matrices = lambda tree: {name: name.endswith("/kernel") for name in tree}  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.add_decayed_weights(DECAY, matrices),
    )


def loss(
    trained: Tree, frozen: Tree, sizes: network.Sizes, batch: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    previous, fresh, conditioning, codes, chosen = batch
    return objective.loss(
        {**trained, **frozen}, sizes, previous, fresh, conditioning, codes, chosen
    )


@functools.partial(jax.jit, static_argnames="sizes", donate_argnames="state")
def step(
    state: Tree, frozen: Tree, batch: Sequence[jax.Array], rate: float, sizes: network.Sizes
) -> tuple[Tree, jax.Array]:
    """One update of ``trained``, ``averaged``, ``moments`` and ``count``."""
    trained = state["trained"]
    gradients, levels = jax.grad(loss, has_aux=True)(trained, frozen, sizes, batch)
    updates, moments = optimizer().update(gradients, state["moments"], trained)
    trained = {
        name: value - rate * RATES.get(name, 1.0) * updates[name] for name, value in trained.items()
    }
    count = state["count"] + 1
    kept = jnp.minimum(AVERAGED, count / (count + 20.0))
    averaged = {
        name: kept * value + (1 - kept) * trained[name] for name, value in state["averaged"].items()
    }
    new = {"trained": trained, "averaged": averaged, "moments": moments, "count": count}
    return new, levels


@functools.partial(jax.jit, static_argnames="sizes")
def check(
    params: Tree, frozen: Tree, batch: Sequence[jax.Array], sizes: network.Sizes
) -> jax.Array:
    return loss(params, frozen, sizes, batch)[1]


def start(params: parameters.Arrays) -> tuple[Tree, Tree]:
    """The training state of untrained parameters, and those that stay as they are."""
    frozen = {name: jnp.asarray(params[name]) for name in parameters.FROZEN}
    trained = {name: jnp.asarray(v) for name, v in params.items() if name not in frozen}
    return {
        "trained": trained,
        "averaged": jax.tree.map(jnp.copy, trained),
        "moments": optimizer().init(trained),
        "count": jnp.zeros((), jnp.int32),
    }, frozen


def rate_at(count: int, progress: float) -> float:
    """The learning rate after ``count`` steps and a share 0 to 1 of the time."""
    cosine = LOWEST + (1 - LOWEST) * (1 + np.cos(np.pi * min(progress, 1.0))) / 2
    return float(RATE * min(1.0, (count + 1) / WARM_UP_STEPS) * cosine)


def arrays(batch: Batch) -> tuple[np.ndarray, ...]:
    return batch.previous, batch.fresh, batch.conditioning, batch.codes, batch.chosen


def train(
    architecture: Architecture,
    material: Material,
    held_out: Material,
    params: parameters.Arrays,
    minutes: float,
    resume: bool = False,
    path: Path = parameters.PATH,
) -> None:
    """Trains until the time is up and writes the averaged weights to ``path``."""
    sizes = network.Sizes.of(architecture.model_class)
    state, frozen = start(params)
    earlier_s = 0.0
    if resume and STATE.exists():
        state, earlier_s = _restore(state)
    draw = functools.partial(batches.draw, windows=WINDOWS, frames=FRAMES)
    checked = [
        draw(held_out, SEED + 1, number, share=CHECKED_SHARE) for number in range(CHECKED_BATCHES)
    ]
    count, losses = int(state["count"]), []
    saved = time.monotonic()
    started = saved - earlier_s
    batch = draw(material, SEED, count, share=SHARE)
    while (elapsed := time.monotonic() - started) < minutes * 60:
        rate = rate_at(count, elapsed / (minutes * 60))
        state, levels = step(state, frozen, arrays(batch), rate, sizes)
        count += 1
        batch = draw(material, SEED, count, share=SHARE)  # while the step runs
        losses.append(np.asarray(levels))
        if count % REPORT_STEPS == 0:
            _say("train", count, elapsed, np.mean(losses, axis=0))
            losses.clear()
        if time.monotonic() - saved > SAVE_S:
            saved = time.monotonic()
            _keep(state, frozen, time.monotonic() - started, path)
            found = [check(state["averaged"], frozen, arrays(b), sizes) for b in checked]
            _say("held out", count, elapsed, np.mean(found, axis=0))
    _keep(state, frozen, time.monotonic() - started, path)
    found = [check(state["averaged"], frozen, arrays(b), sizes) for b in checked]
    _say("held out", count, time.monotonic() - started, np.mean(found, axis=0))


def _say(what: str, count: int, elapsed_s: float, levels: np.ndarray) -> None:
    weighted = float(np.sum(levels * objective.WEIGHTS) / objective.WEIGHTS.sum())
    each = " ".join(f"{level:.2f}" for level in levels)
    print(f"{what} {count} {elapsed_s:.0f} s: {weighted:.3f} nats a code; {each}", flush=True)


def _keep(state: Tree, frozen: Tree, elapsed_s: float, path: Path) -> None:
    parameters.save({**state["averaged"], **frozen}, path)
    partial = STATE.with_suffix(".partial.npz")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    np.savez(partial, *leaves, elapsed_s=elapsed_s)
    partial.replace(STATE)


def _restore(like: Tree) -> tuple[Tree, float]:
    """The training state that was kept, and the seconds that it took."""
    with np.load(STATE) as stored:
        count = len(jax.tree.leaves(like))
        leaves = [jnp.asarray(stored[f"arr_{i}"]) for i in range(count)]
        elapsed_s = float(stored["elapsed_s"])
    restored: Tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return restored, elapsed_s


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=45.0, help="with earlier runs'")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
    demo = ARCHITECTURES["demo"]
    ear, encoder = Ear.load(), codec.load().quantiser
    params = parameters.initial(demo, ear.books, encoder.books, SEED)
    silence = encoder.codes(encoder.features(np.zeros((1_920, 2), np.float32)))[0]
    material, held_out = (
        Material(pieces, wishes.tokens(pieces, ear, SEED), silence)
        for pieces in (Pieces.load(held_out=False), Pieces.load(held_out=True))
    )
    print(f"{len(material.pieces)} pieces, {len(held_out.pieces)} held out", flush=True)
    train(demo, material, held_out, params, options.minutes, options.resume)


if __name__ == "__main__":
    main()
