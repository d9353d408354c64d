"""What training makes small: the codes' negative log-likelihood, level by level.

The likelihood is that of sampling at ``TEMPERATURE``, the service's default, so that a prompt
with default settings plays from the distribution that was trained.

Invariant: gradients are those of the plain formula; the head's are made in the forward pass,
where its 12 x 1,024 logits a frame are still at hand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tools.demo_model.lm import network
from tools.demo_model.lm.network import LEVELS, Params, Sizes

TEMPERATURE = 1.3
# The first levels carry what is heard most; the last ones are close to noise.
WEIGHTS = np.array([2, 2, 1.6, 1.4, 1.2, 1, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5], np.float32)


def loss(
    params: Params,
    sizes: Sizes,
    previous: jax.Array,
    fresh: jax.Array,
    conditioning: jax.Array,
    codes: jax.Array,
    chosen: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Of one batch.

    Args:
      params: The model.
      sizes: Its sizes.
      previous: int32 [B, T, 12], the codes of the frame before each.
      fresh: bool [B, T], true where a stream starts: there is no frame before.
      conditioning: int32 [B, T, 144], of the frames themselves.
      codes: int32 [B, T, 12], the frames to predict.
      chosen: int32 [N], which of the B * T frames to learn from; all pass the temporal body.

    Returns:
      The weighted mean and the mean of each level, float32 [12], both in nats a code.
    """
    frames = network.embed(params, previous).mean(-2)
    frames = jnp.where(fresh[..., None], network.start(params), frames)
    encoded = network.encode(params, sizes, conditioning)
    hidden = network.temporal(params, sizes, frames, encoded)
    hidden = hidden.reshape(-1, hidden.shape[-1])[chosen]
    targets = codes.reshape(-1, LEVELS)[chosen]
    x = network.depth(params, sizes, hidden, network.embed_before_last(params, targets))
    # One level after another: a program of one level compiles much faster than one of twelve.
    levels = jax.lax.map(
        lambda level: mean_nll(*level),
        (
            x.transpose(1, 0, 2),
            params[network.HEAD + "kernel"],
            params[network.HEAD + "bias"],
            targets.T,
        ),
    )
    return jnp.sum(levels * WEIGHTS) / WEIGHTS.sum(), levels


@jax.custom_vjp
def mean_nll(x: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over float32 [N, width] of -log p(target); kernel [width, 1024]."""
    return _mean_nll_and_gradients(x, kernel, bias, targets)[0]


def _mean_nll_and_gradients(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    tanh = jnp.tanh((x @ kernel + bias) / network.SOFT_CAP)
    logits = tanh * (network.SOFT_CAP / TEMPERATURE)  # capped: exp needs no maximum taken off
    exps = jnp.exp(logits)
    total = jnp.sum(exps, -1, keepdims=True)
    at_target = jnp.arange(logits.shape[-1]) == targets[:, None]
    nll = jnp.log(total[:, 0]) - jnp.sum(jnp.where(at_target, logits, 0), -1)
    by_logits = (exps / total - at_target) / len(x)
    by_raw = by_logits * (1 - tanh * tanh) / TEMPERATURE
    return nll.mean(), (
        by_raw @ kernel.T,
        x.T @ by_raw,
        by_raw.sum(0),
    )


def _backward(
    gradients: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    by_x, by_kernel, by_bias = gradients
    return by_x * cotangent, by_kernel * cotangent, by_bias * cotangent, None


mean_nll.defvjp(_mean_nll_and_gradients, _backward)
