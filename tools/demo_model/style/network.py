"""The trained parts as functions of their parameters: text, audio and mapper, in JAX.

A style is a unit vector in 16 dimensions, its *latent*; the product's 768 dimensions are an
orthonormal image of it. Sixteen, because a style here has about that many independent traits,
and because the language model reads it as a sum of twelve code vectors of this size.

Invariant: pure functions of ``Parameters``; the LiteRT graphs compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.demo_model.style import spectrum

Parameters = Mapping[str, Any]  # name to float32 array

EMBEDDING_DIMS = 768
LATENT_DIMS = 16
MAX_TEXT_TOKENS = 128
BOS_ID = 1

WORD_DIMS = 48
PHRASE_DIMS = 96  # features of two neighbouring words: "no drums" is not "drums"
HIDDEN_DIMS = 128
EARLY_PLACES = 24  # a word this far in counts half of the first
MAPPER_HIDDEN_DIMS = 48
NOISE_SCALE = 0.02  # a norm of 0.08 beside a latent of norm 1: the same words, played again
FIXED = ("audio/mean", "audio/scale")  # measured, not learnt


def places() -> np.ndarray:
    """How much the words at each place count, float32 [128]: people say the main thing first."""
    return (1 / (1 + np.arange(MAX_TEXT_TOKENS) / EARLY_PLACES)).astype(np.float32)


def image() -> np.ndarray:
    """float32 [768, 16] with orthonormal columns, from latents to embeddings."""
    gaussian = np.random.RandomState(1).standard_normal((EMBEDDING_DIMS, LATENT_DIMS))
    return np.linalg.qr(gaussian)[0].astype(np.float32)


def initial(vocabulary_size: int, key: jax.Array) -> dict[str, jax.Array]:
    """Untrained parameters; words start small, so that one never trained on says nothing."""
    sizes = {
        "text/phrase": (2 * WORD_DIMS, PHRASE_DIMS),
        "text/hidden": (PHRASE_DIMS, HIDDEN_DIMS),
        "text/latent": (HIDDEN_DIMS, LATENT_DIMS),
        "audio/first": (spectrum.SUMMARY_SIZE, HIDDEN_DIMS),
        "audio/second": (HIDDEN_DIMS, HIDDEN_DIMS),
        "audio/latent": (HIDDEN_DIMS, LATENT_DIMS),
        "mapper/hidden": (LATENT_DIMS, MAPPER_HIDDEN_DIMS),
        "mapper/latent": (MAPPER_HIDDEN_DIMS, LATENT_DIMS),
    }
    parameters = {"text/words": 0.02 * jax.random.normal(key, (vocabulary_size, WORD_DIMS))}
    for name, (width, out) in sizes.items():
        key, own = jax.random.split(key)
        parameters[name] = jax.random.normal(own, (width, out)) * (2 / width) ** 0.5
        if name != "text/phrase":  # without a bias, so that words of zeros add nothing
            parameters[f"{name}/bias"] = jnp.zeros(out)
    parameters["mapper/latent"] *= 0.1
    return parameters


def _dense(parameters: Parameters, name: str, x: jax.Array) -> jax.Array:
    return x @ parameters[name] + parameters[f"{name}/bias"]


def unit(x: jax.Array) -> jax.Array:
    """Over the last axis, with a gradient at zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


def text_latent(parameters: Parameters, ids: jax.Array, present: jax.Array) -> jax.Array:
    """Token ids int32 [B, T], 1 where there is one float32 [B, T], to unit latents [B, 16]."""
    words = parameters["text/words"][ids] * present[..., None]
    following = jnp.pad(words[:, 1:], ((0, 0), (0, 1), (0, 0)))
    phrases = jnp.concatenate([words, following], -1) @ parameters["text/phrase"]
    weights = places()[: ids.shape[1]] * present
    pooled = unit(jnp.einsum("btd,bt->bd", jax.nn.relu(phrases), weights))
    # Times the root of its size: features of around 1, as the layer's initial scale expects.
    hidden = jax.nn.relu(_dense(parameters, "text/hidden", pooled * PHRASE_DIMS**0.5))
    return unit(_dense(parameters, "text/latent", hidden))


def audio_latent(parameters: Parameters, summary: jax.Array) -> jax.Array:
    """Summaries float32 [B, 416] to unit latents [B, 16]."""
    usual = (summary - parameters["audio/mean"]) * parameters["audio/scale"]
    hidden = jax.nn.relu(_dense(parameters, "audio/first", jnp.clip(usual, -4, 4)))
    hidden = jax.nn.relu(_dense(parameters, "audio/second", hidden))
    return unit(_dense(parameters, "audio/latent", hidden))


def mapped(parameters: Parameters, latent: jax.Array) -> jax.Array:
    """Latents of text [B, 16] to where the audio they describe lies, unit latents [B, 16]."""
    hidden = jax.nn.relu(_dense(parameters, "mapper/hidden", latent))
    return unit(latent + _dense(parameters, "mapper/latent", hidden))
