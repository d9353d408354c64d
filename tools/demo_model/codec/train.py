"""``python -m tools.demo_model.codec.train --minutes N [--resume]``: the demo's codec.

1. Pieces are rendered; the encoder's axes and codebooks are fitted to them (no gradients).
2. All pieces become codes, once.
3. The decoder, table included, learns to turn those codes back into sound, until time is up.

``.cache/demo_model/codec.npz`` is written as soon as there is something to decode with, then
every few minutes, each time as a whole.

Invariant: codes never change after step 2, so that a language model can be trained on them
while the decoder still improves.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tools.demo_model import CACHE
from tools.demo_model.codec import decoder, loss, material, quantiser, start
from tools.demo_model.codec.tokens import AVERAGED, ENCODER, below

PIECES = 360
FITTED_FRAMES = 140  # of each, for the codebooks
FIRST_SEED = 10_000
CLIPS = 8  # a step
CLIP_FRAMES = 25
LEARNING_RATE = 1e-3
LAST_LEARNING_RATE = 5e-5
WARMUP_STEPS = 50
AVERAGING = 0.995  # of the parameters that are kept
SAVE_EVERY_S = 120.0
TRAINED = "trained/"  # beside what tokens.py reads

State = tuple[decoder.Parameters, decoder.Parameters, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--resume", action="store_true", help="go on from codec.npz")
    arguments.add_argument("--rate", type=float, default=LEARNING_RATE, help="of learning")
    arguments.add_argument("--seed", type=int, default=0, help="of the order of clips")
    options = arguments.parse_args()
    path = CACHE / "codec.npz"
    stop = time.monotonic() + 60 * options.minutes

    pieces = material.pieces(PIECES, FIRST_SEED)
    stored = dict(np.load(path)) if options.resume else {}
    if stored:
        encoder = quantiser.Quantiser(**below(stored, ENCODER))
        parameters = {k: jnp.asarray(v) for k, v in below(stored, TRAINED).items()}
        averaged = {k: jnp.asarray(v) for k, v in below(stored, AVERAGED).items()}
    else:
        parts = fitted(pieces[material.HELD_OUT :])
        encoder = quantiser.fit(parts)
        points = np.concatenate([encoder.features(part) for part in parts[:12]])
        averaged = parameters = start.parameters(encoder, points)
        del parts
        save(path, encoder, parameters, averaged)
    codes = _codes(encoder, pieces)
    learn(path, pieces, codes, encoder, parameters, averaged, stop, options)


def fitted(pieces: np.ndarray) -> list[np.ndarray]:
    """What the codebooks see: the first or the last part of each piece, float32."""
    size = FITTED_FRAMES * 1_920
    return [
        np.asarray(piece[-size:] if row % 2 else piece[:size], np.float32)
        for row, piece in enumerate(pieces)
    ]


def learn(
    path: Path,
    pieces: np.ndarray,
    codes: np.ndarray,
    encoder: quantiser.Quantiser,
    parameters: decoder.Parameters,
    averaged: decoder.Parameters,
    stop: float,
    options: argparse.Namespace,
) -> None:
    """Trains the decoder until ``stop`` on ``time.monotonic()``."""
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    state: State = (parameters, averaged, optimiser.init(parameters))
    held_out = next(clips(pieces[: material.HELD_OUT], codes[: material.HELD_OUT], 1, 48))
    examples = clips(pieces[material.HELD_OUT :], codes[material.HELD_OUT :], options.seed)
    begun = saved = time.monotonic()
    losses = []
    while (now := time.monotonic()) < stop:
        progress = (now - begun) / (stop - begun)
        warmth = min(1.0, (len(losses) + 1) / WARMUP_STEPS)
        fall = 0.5 * (1 + np.cos(np.pi * progress))
        step_rate = warmth * (LAST_LEARNING_RATE + (options.rate - LAST_LEARNING_RATE) * fall)
        state, value = _step(optimiser, state, step_rate, *next(examples))
        losses.append(float(value))
        if len(losses) in (20, 100) or now - saved > SAVE_EVERY_S:
            saved = now
            save(path, encoder, state[0], state[1])
            recent = np.mean(losses[-50:])
            unseen = float(_evaluate(state[1], *held_out))
            print(
                f"{now - begun:6.0f} s  step {len(losses)}  loss {recent:.4f}"
                f"  held out {unseen:.4f}",
                flush=True,
            )
    save(path, encoder, state[0], state[1])


def clips(
    pieces: np.ndarray, codes: np.ndarray, seed: int, count: int = CLIPS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes int32 [B, 4 + 25 + 1, 12] and samples float32 [B, 25 * 1920 + 480, 2] of the 25."""
    random = np.random.RandomState(seed)
    before, size = decoder.CONTEXT_FRAMES, CLIP_FRAMES * 1_920 + decoder.HOP
    while True:
        chosen = random.randint(0, len(pieces), count)
        starts = random.randint(before, codes.shape[1] - CLIP_FRAMES - 1, count)
        yield (
            np.stack(
                [
                    codes[piece, start - before : start + CLIP_FRAMES + 1]
                    for piece, start in zip(chosen, starts, strict=True)
                ]
            ).astype(np.int32),
            np.stack(
                [
                    pieces[piece, start * 1_920 : start * 1_920 + size]
                    for piece, start in zip(chosen, starts, strict=True)
                ]
            ).astype(np.float32),
        )


def save(
    path: Path,
    encoder: quantiser.Quantiser,
    trained: decoder.Parameters,
    averaged: decoder.Parameters,
) -> None:
    """Writes everything, under the name only once it is whole."""
    arrays = {ENCODER + name: value for name, value in encoder.arrays().items()}
    arrays |= {TRAINED + name: np.asarray(value) for name, value in trained.items()}
    arrays |= {AVERAGED + name: np.asarray(value) for name, value in averaged.items()}
    beginning = path.with_suffix(".part.npz")
    np.savez(beginning, **arrays)
    beginning.replace(path)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    optimiser: optax.GradientTransformation,
    state: State,
    rate: jax.Array,
    codes: jax.Array,
    samples: jax.Array,
) -> tuple[State, jax.Array]:
    parameters, averaged, moments = state
    value, gradients = jax.value_and_grad(_loss)(parameters, codes, samples)
    updates, moments = optimiser.update(gradients, moments)
    parameters = jax.tree.map(lambda p, u: p - rate * u, parameters, updates)
    averaged = jax.tree.map(lambda a, p: AVERAGING * a + (1 - AVERAGING) * p, averaged, parameters)
    return (parameters, averaged, moments), value


def _loss(parameters: decoder.Parameters, codes: jax.Array, samples: jax.Array) -> jax.Array:
    spectra = decoder.spectra(parameters, decoder.embed(parameters, codes))
    return loss.distance(spectra[:, decoder.STEPS * decoder.CONTEXT_FRAMES :], samples)


_evaluate = jax.jit(_loss)


def _codes(encoder: quantiser.Quantiser, pieces: np.ndarray) -> np.ndarray:
    """int16 [P, 250, 12]; kept on disk, under a name that changes with the encoder."""
    name = hashlib.sha256(encoder.books.tobytes()).hexdigest()[:12]
    path = CACHE / f"codec_codes_{name}_{len(pieces)}.npy"
    if not path.exists():
        codes = [encoder.codes(encoder.features(np.float32(piece))) for piece in pieces]
        np.save(path, np.stack(codes))
    return np.load(path)


if __name__ == "__main__":
    main()
