"""The language model's parameters before training, and their file.

What is known is not left to chance: a style token's row is its code vector in the style model's
quantiser, and stays so, as upstream has it; the codec's tokens start near where their code
vectors lie; guidance starts as a smooth scale.

Invariant: names, shapes and dtypes are a real checkpoint's once :func:`save` has written them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from magenta_bento.model.architecture import Architecture
from tools.demo_model import CACHE, checkpoint
from tools.demo_model.lm import network
from tools.demo_model.lm.network import CODES, FIRST_CODE, LEVELS, MASKED

PATH = CACHE / "lm.npz"
FROZEN = (network.STYLE_TABLE,)
# One of 132 averaged channels beside one whole style, of about 1: a note has to be loud.
CONTROL_SCALE = 40.0
KNOWN_SHARE, CHANCE_SHARE = 1.5, 0.5  # of the token table's usual scale
Arrays = dict[str, np.ndarray]


def initial(
    architecture: Architecture, style_books: np.ndarray, codec_books: np.ndarray, seed: int
) -> Arrays:
    """Untrained parameters in the layout of :mod:`network`.

    Args:
      architecture: The demo.
      style_books: The style quantiser's code vectors, float32 [12, 1024, style width].
      codec_books: The codec's, float32 [12, 1024, codec width].
      seed: Of the initialisation.
    """
    shapes = jax.eval_shape(
        lambda key: checkpoint.initial(architecture, key), jax.random.PRNGKey(0)
    )
    random = np.random.RandomState(seed)
    ours = network.from_checkpoint(
        {
            name: _usual(name, leaf.shape, random)
            for name, leaf in sorted(shapes.items())
            if name.startswith(network.PREFIX)
        }
    )
    ours[network.STYLE_TABLE] = style_table(style_books)
    adapter = network.STYLE + "depth_input_adapter/kernel"
    ours[adapter] = random.standard_normal(ours[adapter].shape)
    ours[network.CONTROL_TABLE] = _control_table(network.Sizes.of(architecture.model_class), random)
    ours[network.TOKEN_TABLE] = _token_table(ours[network.TOKEN_TABLE].shape, codec_books, random)
    ours[network.HEAD + "kernel"] = ours[network.HEAD + "kernel"] / 2  # codes start about even
    return {name: np.ascontiguousarray(value, np.float32) for name, value in ours.items()}


def _usual(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    """Scales of one, biases of zero, kernels that keep the variance."""
    if name.endswith("per_dim_scale"):
        return np.zeros(shape)  # upstream's softplus makes it one
    if name.endswith("/scale"):
        return np.ones(shape)
    if name.endswith(("/bias", "sink_scalars")):
        return np.zeros(shape)
    inputs = shape[-1] if name.endswith(("embedding", "embeddings")) else shape[0]
    if name.endswith("output_projection/kernel"):
        inputs = shape[1] * shape[2]  # [width, heads, per head]
    return random.standard_normal(shape) / inputs**0.5


def _token_table(
    shape: tuple[int, ...], books: np.ndarray, random: np.random.RandomState
) -> np.ndarray:
    width = shape[1]
    usual = width**-0.5
    image = random.standard_normal((books.shape[-1], width)) / books[0].std()
    image /= books.shape[-1] ** 0.5
    table = random.standard_normal(shape) * usual * CHANCE_SHARE
    known = books.reshape(LEVELS * CODES, -1) @ image
    table[FIRST_CODE:] += known * usual * KNOWN_SHARE
    return table


def _control_table(sizes: network.Sizes, random: np.random.RandomState) -> np.ndarray:
    """float32 [1536, encoder width]: silent unless something is given."""
    notes, drums, *guidances = sizes.controls
    width = sizes.encoder_width
    blocks = []
    for config in (notes, drums):
        shape = (config.rvq_truncation_level, config.per_rvq_vocab_size, width)
        block = random.standard_normal(shape) * CONTROL_SCALE
        block[:, : MASKED + 1] = 0
        if config is notes:
            block[:, MASKED + 1] = 0  # off
            shared = random.standard_normal((shape[0], 1, width)) * CONTROL_SCALE
            block[:, MASKED + 2 :] = 0.5 * block[:, MASKED + 2 :] + shared  # on, in any way
        blocks.append(block.reshape(-1, width))
    for config in guidances:
        shape = (config.rvq_truncation_level, 1, width)
        scale = np.linspace(-1, 1, config.per_rvq_vocab_size)[:, None]
        block = random.standard_normal(shape) * scale * CONTROL_SCALE / 2
        blocks.append(block.reshape(-1, width))
    table = np.concatenate(blocks)
    return np.pad(table, ((0, -len(table) % 128), (0, 0)))


def style_table(books: np.ndarray) -> np.ndarray:
    """float32 [12 * 1031, style width]: zeros for reserved tokens and "not given"."""
    table = np.pad(books, ((0, 0), (network.MASKED + 1, 0), (0, 0)))
    rows: np.ndarray = table.reshape(-1, books.shape[-1]).astype(np.float32)
    return rows


def save(params: Mapping[str, np.ndarray], path: Path = PATH) -> None:
    """Writes the checkpoint's names and shapes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **network.to_checkpoint(params))
    partial.replace(path)


def load(path: Path = PATH) -> Arrays:
    """The checkpoint's own names, shapes and dtypes."""
    with np.load(path) as stored:
        return dict(stored)
