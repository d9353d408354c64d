"""Renders every prompt with every seed in one batch, and measures how loud it is.

Invariant: it hears what upstream's system would play for the same prompt, key and parameters,
at its default temperature, top_k and guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import sequence_layers.jax as sl
from magenta_rt.musiccoca import MusicCoCa

from magenta_bento import conditioning
from magenta_bento.controls import Controls
from magenta_bento.model.architecture import Architecture
from tools.demo_model.checkpoint import Parameters

PROMPTS = (
    "disco funk",
    "a jazz piano trio",
    "dark ambient drone",
    "heavy metal guitar solo",
    "solo cello, slow and sad",
    "fast drum and bass at 174 bpm",
)
SEEDS = (0, 1, 2)
FRAMES = 50  # 2 s
SILENT_SAMPLES = 1_921  # the decoder looks one frame ahead


def render(
    architecture: Architecture,
    parameters: Parameters,
    musiccoca: Path,
    frames: int = FRAMES,
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = SEEDS,
) -> np.ndarray:
    """Plays every prompt with every seed.

    Returns:
      pcm: int16 [len(prompts), len(seeds), samples, 2], without the silence at the start.
    """
    rows = [(prompt, seed) for prompt in prompts for seed in seeds]
    tokens = style_tokens(musiccoca, [prompt for prompt, _ in rows])
    blocks = np.stack([conditioning.rows(row[None])[0] for row in tokens])
    pcm = play(architecture, parameters, blocks, [seed for _, seed in rows], frames)
    return pcm.reshape(len(prompts), len(seeds), -1, 2)


def style_tokens(musiccoca: Path, prompts: Sequence[str]) -> np.ndarray:
    """int32 [len(prompts), 12], as a server has them."""
    style = MusicCoCa(resource_dir=musiccoca)
    tokens: np.ndarray = style.tokenize(style.embed(list(prompts), use_mapper=True))
    return tokens


def dbfs(pcm: np.ndarray) -> np.ndarray:
    """RMS over the last two axes of int16 samples, in dB below full scale."""
    mean_square = np.mean((pcm / 32_768.0) ** 2, axis=(-2, -1))
    level: np.ndarray = 10 * np.log10(np.maximum(mean_square, 1e-12))
    return level


def play(
    architecture: Architecture,
    parameters: Parameters,
    blocks: np.ndarray,
    seeds: Sequence[int],
    frames: int,
) -> np.ndarray:
    """Plays B streams, each with one conditioning from its first frame to its last.

    Args:
      architecture: Of the model.
      parameters: Its checkpoint's.
      blocks: int32 [B, 144], as ``magenta_bento.conditioning`` builds them.
      seeds: B.
      frames: Of 40 ms; the first is silent.

    Returns:
      pcm: int16 [B, samples, 2], without the silence at the start.
    """
    sampler = architecture.sampler_config(jnp.float32).make()
    variables = flax.traverse_util.unflatten_dict(parameters, sep="/")
    batch = len(blocks)
    inputs = sl.Sequence.from_values(jnp.asarray(blocks)[:, None])
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])  # uint32 [B, 2]
    sampling = {
        "temperature": jnp.full(batch, Controls().temperature),
        "top_k": jnp.full(batch, Controls().top_k, jnp.int32),
    }

    @jax.jit
    def step(variables: dict[str, Any], state: sl.State) -> tuple[jax.Array, sl.State]:
        output, state, _ = sampler.apply(
            variables,
            inputs,
            state,
            training=False,
            constants=sampling,
            method=sampler.step_with_emits,
        )
        return output.values, state

    state = sampler.apply(
        variables,
        batch,
        inputs.channel_spec,
        training=False,
        constants={},
        rngs={"random": keys[0]},
        method=sampler.get_initial_state,
    )
    encoder, previous, (_, sos, temporal, count), delay = state[0]
    state = ((encoder, previous, (keys, sos, temporal, count), delay), *state[1:])
    played = []
    for _ in range(frames):
        samples, state = step(variables, state)
        played.append(np.asarray(samples))
    return np.concatenate(played, axis=1)[:, SILENT_SAMPLES:]
