"""``python -m tools.demo_model.style.train --minutes N``: trains text, audio and mapper.

1. A vocabulary of the words in the captions.
2. Text and audio encoders, so that a caption lies near the clips it could describe, and far
   from others (contrastive), and so that the traits of a style can be read from a latent.
3. The mapper, from a caption's latent to the middle of the latents of its clips.
4. Code books, on latents of both and blends of them.

Captions lose words and gain unknown ones while training, so that a text is placed by the words
that are known, and a text of unknown words in the middle of everything.

Invariant: reproducible from ``pairs.npz`` and the seed, but for the stop at the given minutes.
"""

from __future__ import annotations

import argparse
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece

from tools.demo_model import vocabulary
from tools.demo_model.style import ear, network, pairs, quantiser

TEXT_TOKENS = 40  # of a caption while training
BATCH = 384
STEPS = 1_400
LEARNING_RATE = 2e-3
WARM_STEPS = 100
TEMPERATURE = 0.12
TRAITS_WEIGHT = 0.5
MAPPER_WEIGHT = 1.0
JUNK_SHARE = 0.25  # of captions get unknown words
EMPTY_SHARE = 0.03  # of captions lose all known ones
SUMMARY_NOISE = 0.15  # in units of a feature's spread over the pieces
CODED_LATENTS = 20_000
SEED = 0


def _junk(rng: np.random.RandomState, count: int) -> list[str]:
    """Words that nobody knows: letters, mostly lower-case ASCII, some of other scripts."""
    other = "äöüßéèñçøåœžшдлюябвгитαβγδ日本語中文音楽한국어🎸🎷🎵0123456789"
    words = []
    for _ in range(count):
        alphabet = other if rng.uniform() < 0.2 else string.ascii_lowercase
        words.append("".join(rng.choice(list(alphabet), rng.randint(2, 10))))
    return words


class Captions:
    """Captions as token ids, word by word, from which batches with lost and added words come."""

    def __init__(self, captions: np.ndarray, spm: bytes) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=spm)
        self._captions = captions
        self._words: dict[str, list[int]] = {}
        self._junk = _junk(np.random.RandomState(SEED), 2_000)

    def batch(self, rows: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """ids int32 [B, 40] and 1 where there is one float32 [B, 40]; a random caption each."""
        ids = np.zeros((len(rows), TEXT_TOKENS), np.int32)
        present = np.zeros(ids.shape, np.float32)
        for at, row in enumerate(rows):
            caption = self._captions[row, rng.randint(self._captions.shape[1])]
            words = [] if rng.uniform() < EMPTY_SHARE else caption.lower().split()
            if rng.uniform() < JUNK_SHARE:
                for _ in range(rng.randint(1, 4)):
                    words.insert(rng.randint(len(words) + 1), self._junk[rng.randint(2_000)])
            labels = [network.BOS_ID, *(piece for word in words for piece in self._ids(word))]
            labels = labels[:TEXT_TOKENS]
            ids[at, : len(labels)] = labels
            present[at, : len(labels)] = 1
        return ids, present

    def _ids(self, word: str) -> list[int]:
        # The vocabulary's pieces never cross a space, so that words can be encoded alone.
        if word not in self._words:
            self._words[word] = self._pieces.EncodeAsIds(word)
        return self._words[word]


def trait_matrix(traits: Sequence[Mapping[str, object]], least: int = 8) -> np.ndarray:
    """float32 [N, K]: numbers, and 0 or 1 for other values, as often as they spread by 1.

    Args:
      traits: Of each piece.
      least: A value that fewer pieces have is left out.
    """
    columns: dict[str, np.ndarray] = {}
    for row, told in enumerate(traits):
        for name, value in told.items():
            number = isinstance(value, int | float)
            column = columns.setdefault(
                name if number else f"{name}={value}", np.zeros(len(traits))
            )
            column[row] = float(value) if number else 1  # type: ignore[arg-type]
    table = np.stack([c for c in columns.values() if np.sum(c != 0) >= least], axis=1)
    spread = table.std(axis=0)
    kept = spread > 1e-6
    return ((table - table.mean(axis=0)) / np.maximum(spread, 0.1))[:, kept].astype(np.float32)


def loss(
    parameters: dict[str, jax.Array],
    ids: jax.Array,
    present: jax.Array,
    summaries: jax.Array,
    traits: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Contrastive, traits and mapper; the second value names them for the log."""
    text = network.text_latent(parameters, ids, present)
    audio = network.audio_latent(parameters, summaries)
    logits = text @ audio.T / TEMPERATURE
    own = jnp.arange(len(ids))
    both = [optax.softmax_cross_entropy_with_integer_labels(x, own) for x in (logits, logits.T)]
    contrast = sum(map(jnp.mean, both)) / 2
    read = jnp.concatenate([text, audio]) @ parameters["traits"] + parameters["traits/bias"]
    missed = jnp.mean((read - jnp.concatenate([traits, traits])) ** 2)
    goal = jax.lax.stop_gradient(audio)
    moved = network.mapped(parameters, jax.lax.stop_gradient(text))
    away = jnp.mean(1 - jnp.sum(moved * goal, -1))
    total = contrast + TRAITS_WEIGHT * missed + MAPPER_WEIGHT * away
    return total, (contrast, missed, away)


def train(data: pairs.Pairs, minutes: float, steps: int = STEPS) -> ear.Ear:
    """Trains on all but the held-out pieces."""
    rows = np.flatnonzero(~data.held_out)
    spm = vocabulary.train(sorted(set(data.captions[rows, 0].tolist())))
    captions = Captions(data.captions, spm)
    size = sentencepiece.SentencePieceProcessor(model_proto=spm).vocab_size()
    traits = trait_matrix(data.traits)
    parameters = network.initial(size, jax.random.PRNGKey(SEED))
    flat = data.summaries[rows].reshape(-1, data.summaries.shape[-1])
    parameters["audio/mean"] = jnp.asarray(flat.mean(axis=0))
    parameters["audio/scale"] = jnp.asarray(1 / np.maximum(flat.std(axis=0), 0.02))
    parameters["traits"] = jnp.zeros((network.LATENT_DIMS, traits.shape[1]))
    parameters["traits/bias"] = jnp.zeros(traits.shape[1])
    warm = min(WARM_STEPS, steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0, LEARNING_RATE, warm, steps, 1e-5)
    decayed = {name: value.ndim == 2 and name != "text/words" for name, value in parameters.items()}
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02, mask=decayed)
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, state, *batch):
        gradients, told = jax.grad(loss, has_aux=True)(parameters, *batch)
        gradients |= {name: jnp.zeros_like(gradients[name]) for name in network.FIXED}
        updates, state = optimiser.update(gradients, state, parameters)
        moved = optax.apply_updates(parameters, updates)
        return moved | {name: parameters[name] for name in network.FIXED}, state, told

    state = optimiser.init(parameters)
    started = time.monotonic()
    for number, batch in enumerate(_batches(data, rows, traits, captions, steps)):
        parameters, state, told = step(parameters, state, *batch)
        seconds = time.monotonic() - started
        if number % 200 == 0:
            shown = "  ".join(f"{float(value):.3f}" for value in told)
            print(f"step {number}  contrast, traits, mapper: {shown}  {seconds:.0f} s", flush=True)
        if seconds > minutes * 60:
            print(f"stopped at step {number} of {steps}: out of time")
            break
    kept = {
        name: np.asarray(value)
        for name, value in parameters.items()
        if not name.startswith("traits")
    }
    books = _books(kept, data, rows, captions)
    return ear.Ear(kept, books, spm)


def _batches(
    data: pairs.Pairs, rows: np.ndarray, traits: np.ndarray, captions: Captions, steps: int
) -> Iterator[tuple[np.ndarray, ...]]:
    rng = np.random.RandomState(SEED)
    spread = data.summaries[rows].std(axis=(0, 1))
    for _ in range(steps):
        chosen = rng.choice(rows, min(BATCH, len(rows)), replace=False)
        heard = data.summaries[chosen, rng.randint(pairs.CLIPS, size=len(chosen))]
        noise = rng.standard_normal(heard.shape) * spread * SUMMARY_NOISE
        yield *captions.batch(chosen, rng), (heard + noise).astype(np.float32), traits[chosen]


def _books(
    parameters: network.Parameters, data: pairs.Pairs, rows: np.ndarray, captions: Captions
) -> np.ndarray:
    """On audio, mapped text, blends of two and of three (also towards one and away), shaken."""
    rng = np.random.RandomState(SEED)
    chosen = rng.choice(rows, CODED_LATENTS // 3)
    heard = data.summaries[chosen, rng.randint(pairs.CLIPS, size=len(chosen))]
    audio = np.asarray(network.audio_latent(parameters, heard))
    text = np.asarray(network.text_latent(parameters, *captions.batch(chosen, rng)))
    mapped = np.asarray(network.mapped(parameters, text))
    pure = np.concatenate([audio, mapped, text])
    shares = rng.dirichlet((1.0, 1.0, 0.3), CODED_LATENTS)
    shares[::10, :2] = (1.5, -0.5)
    shares[::10, 2] = 0
    parts = pure[rng.randint(len(pure), size=(CODED_LATENTS, 3))]
    blends = np.einsum("ns,nsd->nd", shares, parts)
    shaken = blends + 0.03 * rng.standard_normal(blends.shape)
    return quantiser.fit(np.concatenate([pure, shaken]).astype(np.float32))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    trained = train(pairs.Pairs.load(), options.minutes, options.steps)
    trained.save(ear.FIRST_PATH)


if __name__ == "__main__":
    main()
