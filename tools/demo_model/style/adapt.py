"""``python -m tools.demo_model.style.adapt``: the audio encoder learns to hear through the codec.

What a codec adds, a noise between partials, tells much to an encoder that has only heard clean
music: the demo's own music would be in no style. So the encoder learns by distillation to give
what passed through the codec, some of it with its last levels mistaken, the latent that it gave
to the music itself. Text, mapper and code books stay, and the space with them.

Invariant: reproducible from the first training, the pairs, the shards and the codec.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tools.demo_model.codec import tokens as codec
from tools.demo_model.codec.quantiser import CODES, LEVELS
from tools.demo_model.lm.pieces import Pieces
from tools.demo_model.style import ear, network, pairs, spectrum

SAMPLE_RATE_HZ = 48_000
CLIP_FRAMES = 250  # 10 s
AT_ONCE = 16  # clips
MISTAKEN_FROM = (LEVELS, 8, 5)  # the first level of which the codes may be any
STEPS, BATCH = 3_000, 384
LEARNING_RATE, WARM_STEPS = 1e-3, 100
SUMMARY_NOISE = 0.1  # in units of a feature's spread
SEED = 1


def heard(codes: np.ndarray) -> np.ndarray:
    """Codes int [N, 250, 12] to summaries float32 [N, 416] of what they sound like."""
    found = []
    for start in range(0, len(codes), AT_ONCE):
        for samples in codec.decode(codes[start : start + AT_ONCE]):
            (summary,) = ear.clip_summaries(samples, SAMPLE_RATE_HZ)
            found.append(summary)
    return np.stack(found).astype(np.float32)


def through_the_codec(pieces: Pieces, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """A clip of each piece that is music as its style has it.

    Returns:
      Summaries float32 [N, 416] of the music, and of the same through the codec.
    """
    one_style = (pieces.summaries[:, 0] == pieces.summaries[:, 1]).all(axis=(1, 2))
    plain = np.flatnonzero(one_style & ~pieces.by_hand)
    whole = pieces.codes.shape[1] // CLIP_FRAMES  # a last one may be part silence
    clips = rng.randint(whole, size=len(plain))
    frames = clips[:, None] * CLIP_FRAMES + np.arange(CLIP_FRAMES)
    codes = pieces.codes[plain[:, None], frames].astype(np.int32)
    least = rng.choice(MISTAKEN_FROM, size=(len(plain), 1, 1))
    mistaken = (np.arange(LEVELS) >= least) & (rng.uniform(size=codes.shape) < 0.5)
    coded = np.where(mistaken, rng.randint(CODES, size=codes.shape), codes)
    return pieces.summaries[plain, 0, clips], heard(coded)


def adapt(first: ear.Ear, summaries: np.ndarray, wanted: np.ndarray, steps: int = STEPS) -> ear.Ear:
    """Trains the audio encoder.

    Args:
      first: What is to be adapted.
      summaries: float32 [N, 416], of clean music and of coded.
      wanted: Their latents, float32 [N, 16].
      steps: Of training.
    """
    fixed = {name: jnp.asarray(value) for name, value in first.parameters.items()}
    learnt = {
        name: fixed.pop(name)
        for name in tuple(fixed)
        if name.startswith("audio/") and name not in network.FIXED
    }
    warm = min(WARM_STEPS, steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0, LEARNING_RATE, warm, steps, 1e-5)
    optimiser = optax.adamw(schedule, weight_decay=0.02)

    def away(learnt, summaries, wanted):
        return jnp.mean(1 - jnp.sum(network.audio_latent(fixed | learnt, summaries) * wanted, -1))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(learnt, state, summaries, wanted):
        told, gradients = jax.value_and_grad(away)(learnt, summaries, wanted)
        updates, state = optimiser.update(gradients, state, learnt)
        return optax.apply_updates(learnt, updates), state, told

    rng = np.random.RandomState(SEED)
    spread = summaries.std(axis=0) * SUMMARY_NOISE
    state = optimiser.init(learnt)
    for number in range(steps):
        rows = rng.randint(len(summaries), size=BATCH)
        noisy = summaries[rows] + spread * rng.standard_normal((BATCH, len(spread)))
        learnt, state, told = step(learnt, state, noisy.astype(np.float32), wanted[rows])
        if number % 500 == 0:
            print(f"step {number}  away: {float(told):.3f}", flush=True)
    adapted = {name: np.asarray(value) for name, value in (fixed | learnt).items()}
    return ear.Ear(adapted, first.books, first.spm)


def main() -> None:
    first = ear.Ear.load(ear.FIRST_PATH)
    rng = np.random.RandomState(SEED)
    kept, coded = through_the_codec(Pieces.load(held_out=False), rng)
    data = pairs.Pairs.load()
    clean = data.summaries[~data.held_out].reshape(-1, spectrum.SUMMARY_SIZE)
    of_clean, of_kept = (
        np.asarray(network.audio_latent(first.parameters, s)) for s in (clean, kept)
    )
    adapted = adapt(
        first,
        np.concatenate([clean, kept, coded, coded]),  # half of it through the codec
        np.concatenate([of_clean, of_kept, of_kept, of_kept]),
    )
    adapted.save()
    kept, coded = through_the_codec(Pieces.load(held_out=True), rng)
    wanted = network.audio_latent(first.parameters, kept)
    for name, model in (("before", first), ("after", adapted)):
        same, through = (
            np.median(np.sum(network.audio_latent(model.parameters, s) * wanted, axis=-1))
            for s in (kept, coded)
        )
        print(f"{name}: cosine of held-out music {same:.2f}, through the codec {through:.2f}")


if __name__ == "__main__":
    main()
