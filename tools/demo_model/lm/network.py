"""The training forward pass: upstream's Depthformer with teacher forcing, made lean.

Upstream's own training pass computes 12,294 logits for each of the 12 codes of a frame; here a
level only sees its own 1,024, as in ``magenta_bento.model.graph``. Control tokens enter through
one matrix product instead of 132 table look-ups a frame.

Invariant: for the same parameters the logits are those of upstream's step-by-step sampler; a
test compares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from magenta_rt.config import NUM_RESERVED_TOKENS, ModelSpec, TokensConfig
from magenta_rt.jax.model import MagentaRT2ModelBase

Params = Mapping[str, jax.Array]  # the checkpoint's names without PREFIX, to float32 arrays

PREFIX = "params/depthformer/"
HEAD = "decoder/depth_body/to_logits/"
TOKEN_TABLE = "decoder/decoder_embedding/embedding/embedding"
STYLE = "encoder/body/layers_1/branched_mulan_embedder/mulan_embedder/"
STYLE_TABLE = STYLE + "mulan_dequantizer/embedding"
CONTROL_TABLE = "encoder/body/layers_1/branched_regular_embedder/regular_embedder/embedding"

LEVELS = 12
CODES = 1024
FIRST_CODE = NUM_RESERVED_TOKENS
MASKED = NUM_RESERVED_TOKENS  # "not given" in every conditioning channel; values follow it
SOFT_CAP = 30.0
NORM_EPSILON = 1e-6
MAX_WAVELENGTH = 10_000.0  # frames; upstream's rotary encoding
HIDDEN = -1e9  # logit of a key that a query must not see


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the forward pass has to know of a model class."""

    encoder_width: int
    temporal: ModelSpec
    depth: ModelSpec
    self_horizon: int
    cross_horizon: int
    rope: bool
    controls: tuple[TokensConfig, ...]

    @classmethod
    def of(cls, model_class: type[MagentaRT2ModelBase]) -> Sizes:
        model = model_class()
        return cls(
            encoder_width=model.encoder_size.model_dims,
            temporal=model.decoder_temporal_size,
            depth=model.decoder_depth_size,
            self_horizon=model.decoder_temporal_self_attention_max_past_horizon,
            cross_horizon=model.decoder_temporal_cross_attention_max_past_horizon,
            rope=model.use_rope,
            # Without the one field that is a list: sizes are hashed.
            controls=tuple(
                dataclasses.replace(config, cfg_scale_keys=None)
                for config in model.input_configs[1:]
            ),
        )


def encode(params: Params, sizes: Sizes, conditioning: jax.Array) -> jax.Array:
    """Conditioning int32 [B, T, 144], as served, to float32 [B, T, width]."""
    style = conditioning[..., :LEVELS]
    rows = (CODES + MASKED + 1) * np.arange(LEVELS)
    embedded = jnp.take(params[STYLE_TABLE], style + rows, axis=0).sum(-2)
    embedded = embedded @ params[STYLE + "depth_input_adapter/kernel"]

    table, channel = params[CONTROL_TABLE], LEVELS
    total, first_row = 0.0, 0
    channels = sum(config.rvq_truncation_level for config in sizes.controls)
    for config in sizes.controls:
        count, rows_each = config.rvq_truncation_level, config.per_rvq_vocab_size
        # Not given, then the values. The greatest guidance is one row past its own channel's.
        states = np.arange(config.codebook_size + 1)
        rows = first_row + rows_each * np.arange(count)[:, None] + MASKED + states
        tokens = conditioning[..., channel : channel + count] - MASKED
        one_hot = jax.nn.one_hot(tokens, len(states), dtype=table.dtype)
        total += one_hot.reshape(*one_hot.shape[:-2], -1) @ table[rows.ravel()]
        channel += count
        first_row += count * rows_each
    mixed = (embedded + total / channels) / 2
    return _layer_norm(params, "encoder/body/encoder_ln/", mixed)


def embed(params: Params, codes: jax.Array) -> jax.Array:
    """RVQ codes int32 [..., 12], 0 to 1023, to float32 [..., 12, width]."""
    tokens = codes + FIRST_CODE + CODES * np.arange(LEVELS)
    return _embed_tokens(params, tokens)


def embed_before_last(params: Params, codes: jax.Array) -> jax.Array:
    """Of RVQ codes int32 [N, 12] all but the last level's: float32 [N, 11, width]."""
    return _embed_tokens(params, (codes + FIRST_CODE + CODES * np.arange(LEVELS))[:, :-1])


def start(params: Params) -> jax.Array:
    """What stands for the frame before the first: float32 [width]."""
    return _embed_tokens(params, jnp.zeros((), jnp.int32))


def temporal(params: Params, sizes: Sizes, frames: jax.Array, encoded: jax.Array) -> jax.Array:
    """The past frames float32 [B, T, width] and the conditioning to what the depth body reads.

    ``frames[:, t]`` is the mean embedding of music frame ``t - 1``; ``encoded[:, t]`` conditions
    frame ``t``.
    """
    x = frames
    for layer in range(sizes.temporal.num_layers):
        name = f"decoder/temporal_body/transformer/x_layers_{layer}/"
        x = x + _attend(params, name + "self_attention/", x, None, sizes.self_horizon, sizes.rope)
        x = x + _attend(
            params, name + "cross_attention/", x, encoded, sizes.cross_horizon, sizes.rope
        )
        x = x + _feed_forward(params, name + "ffn/", x)
    return x


def depth(params: Params, sizes: Sizes, hidden: jax.Array, previous: jax.Array) -> jax.Array:
    """Frames' hidden float32 [N, width] and the codes before each level to the head's input.

    Args:
      params: The model.
      sizes: Its sizes.
      hidden: float32 [N, width] from :func:`temporal`.
      previous: float32 [N, 11, width], the embedded codes of levels 0 to 10.

    Returns:
      float32 [N, 12, depth width].
    """
    x = jnp.concatenate([hidden[:, None], previous], axis=1)
    adapter = "decoder/depth_body/depth_input_adapter/kernel"
    if adapter in params:
        x = x @ params[adapter]
    for layer in range(sizes.depth.num_layers):
        name = f"decoder/depth_body/transformer/x_layers_{layer}/"
        x = x + _attend(params, name + "self_attention/", x, None, LEVELS, sizes.rope)
        x = x + _feed_forward(params, name + "ffn/", x)
    return _layer_norm(params, "decoder/depth_body/final_ln/", x)


def logits(params: Params, x: jax.Array) -> jax.Array:
    """The head's input float32 [N, 12, depth width] to capped logits float32 [N, 12, 1024]."""
    raw = jnp.einsum("nld,ldc->nlc", x, params[HEAD + "kernel"]) + params[HEAD + "bias"]
    return jnp.tanh(raw / SOFT_CAP) * SOFT_CAP


def from_checkpoint(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A checkpoint's language model, its head cut into levels: [12, width, 1024]."""
    ours = {
        name.removeprefix(PREFIX): np.asarray(value)
        for name, value in parameters.items()
        if name.startswith(PREFIX)
    }
    kernel, bias = ours[HEAD + "kernel"], ours[HEAD + "bias"]
    width = len(kernel)
    kernel = kernel[:, FIRST_CODE:].reshape(width, LEVELS, CODES)
    ours[HEAD + "kernel"] = np.ascontiguousarray(kernel.transpose(1, 0, 2))
    ours[HEAD + "bias"] = bias[FIRST_CODE:].reshape(LEVELS, CODES)
    return ours


def to_checkpoint(params: Params) -> dict[str, np.ndarray]:
    """The inverse of :func:`from_checkpoint`; reserved tokens get the logit 0."""
    ours = {PREFIX + name: np.asarray(value, np.float32) for name, value in params.items()}
    kernel = ours[PREFIX + HEAD + "kernel"].transpose(1, 0, 2)
    kernel = kernel.reshape(len(kernel), LEVELS * CODES)
    ours[PREFIX + HEAD + "kernel"] = np.pad(kernel, ((0, 0), (FIRST_CODE, 0)))
    ours[PREFIX + HEAD + "bias"] = np.pad(ours[PREFIX + HEAD + "bias"].ravel(), (FIRST_CODE, 0))
    return ours


def _embed_tokens(params: Params, tokens: jax.Array) -> jax.Array:
    table = params[TOKEN_TABLE]
    return jnp.take(table, tokens, axis=0) * np.sqrt(table.shape[1]).astype(np.float32)


def _feed_forward(params: Params, name: str, x: jax.Array) -> jax.Array:
    y = _rms_norm(params, name + "pre_norm/", x)
    y = jax.nn.gelu(y @ params[name + "ffn_layer1/kernel"] + params[name + "ffn_layer1/bias"])
    y = y @ params[name + "ffn_layer2/kernel"] + params[name + "ffn_layer2/bias"]
    return _rms_norm(params, name + "post_norm/", y)


def _attend(
    params: Params,
    name: str,
    x: jax.Array,
    source: jax.Array | None,
    horizon: int,
    rope: bool,
) -> jax.Array:
    """Causal attention to the last ``horizon`` places and the current one.

    Args:
      params: The model.
      name: The residual layer's.
      x: float32 [B, T, width].
      source: float32 [B, T, other width] to attend to; ``x`` itself, normalised, if None.
      horizon: Places before a query's own that it sees.
      rope: Whether queries and keys are rotated by their place.
    """
    y = _rms_norm(params, name + "pre_norm/", x)
    source = y if source is None else source
    attention = name + "attention/"
    query, key, value = (
        _project(params, f"{attention}{part}_projection/kernel", inputs)
        for part, inputs in (("query", y), ("key", source), ("value", source))
    )
    if rope:
        query, key = _rotate(query), _rotate(key)
    # Sinks see the query before it is scaled, as upstream has it.
    sinks = _sink_logits(params, attention, query)
    heads = query.shape[-1]
    scale = jax.nn.softplus(params[attention + "per_dim_scale"]) / np.log(2) / np.sqrt(heads)
    sink_values = params.get(attention + "sink_value_embeddings")
    context = _windowed(query * scale, key, value, sinks, sink_values, horizon)
    out = params[name + "output_projection/kernel"]  # [width, heads, per head]
    context = context.reshape(*context.shape[:-2], -1) @ out.reshape(len(out), -1).T
    return _rms_norm(params, name + "post_norm/", context)


def _project(params: Params, name: str, x: jax.Array) -> jax.Array:
    kernel = params[name]  # [width, heads, per head]
    out = x @ kernel.reshape(len(kernel), -1)
    return out.reshape(*x.shape[:-1], *kernel.shape[1:])


def _sink_logits(params: Params, name: str, query: jax.Array) -> jax.Array | None:
    """float32 [B, T, heads] of the one sink, or None."""
    if name + "sink_key_embeddings" in params:
        return jnp.einsum("btnh,nh->btn", query, params[name + "sink_key_embeddings"][0])
    if name + "sink_scalars" in params:
        return jnp.broadcast_to(params[name + "sink_scalars"], query.shape[:-1])
    return None


def _windowed(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sinks: jax.Array | None,
    sink_values: jax.Array | None,
    horizon: int,
) -> jax.Array:
    """Softmax attention of [B, T, heads, per head] to a causal window, in blocks.

    A block of ``horizon`` queries sees its own keys and the block's before.
    """
    batch, length, heads, width = query.shape
    block = min(max(horizon, MIN_BLOCK), length)
    blocks = -(-length // block)
    extra = blocks * block - length
    query, key, value = (
        jnp.pad(a, ((0, 0), (0, extra), (0, 0), (0, 0))).reshape(batch, blocks, block, heads, -1)
        for a in (query, key, value)
    )
    before = 0 if blocks == 1 else block
    if before:
        key, value = (
            jnp.concatenate([jnp.pad(a, ((0, 0), (1, 0), *[(0, 0)] * 3))[:, :-1], a], axis=2)
            for a in (key, value)
        )
    scores = jnp.einsum("bcinh,bcjnh->bcnij", query, key)
    distance = np.arange(block)[:, None] + before - np.arange(before + block)
    visible = (distance >= 0) & (distance <= horizon)
    real = np.arange(blocks)[:, None] * block + np.arange(before + block) >= before
    visible = visible & real[:, None, None, None, :].reshape(blocks, 1, 1, -1)
    scores = jnp.where(visible, scores, HIDDEN)
    if sinks is not None:
        sinks = jnp.pad(sinks, ((0, 0), (0, extra), (0, 0)))
        sinks = sinks.reshape(batch, blocks, block, heads).transpose(0, 1, 3, 2)[..., None]
        scores = jnp.concatenate([sinks, scores], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)
    if sinks is not None:
        sink_weights, weights = weights[..., 0], weights[..., 1:]
    context = jnp.einsum("bcnij,bcjnh->bcinh", weights, value)
    if sinks is not None and sink_values is not None:
        context += sink_weights.transpose(0, 1, 3, 2)[..., None] * sink_values[0]
    return context.reshape(batch, blocks * block, heads, width)[:, :length]


MIN_BLOCK = 16  # queries; smaller blocks are too small a matrix product


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions of float32 [B, T, heads, per head], counted from the first place."""
    half = x.shape[-1] // 2
    timescale = MAX_WAVELENGTH ** (np.arange(half) / half)
    radians = np.arange(x.shape[1])[:, None] / timescale  # [T, half]
    sin, cos = (jnp.asarray(f(radians), x.dtype)[:, None] for f in (np.sin, np.cos))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rms_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + NORM_EPSILON) * params[name + "scale"]


def _layer_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    return normed * params[name + "scale"] + params[name + "bias"]
