"""Drawing one RVQ code from its level's logits.

The language model's vocabulary is 12 levels of 1,024 codes behind 6 reserved tokens, and a
level may only draw its own codes. Upstream masks the other 11,270 logits and then sorts and
draws noise for all 12,294; here everything works on the level's own 1,024.

Invariant: the code drawn equals upstream's ``_sample_categorical_with_temperature`` for the
same key, logits, temperature and top-k, bit for bit. It needs the same Gumbel noise that the
full vocabulary would have had at these places, so :func:`gumbel_slice` computes exactly those
places of JAX's counter-based generator (threefry; Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

_MANTISSA_BITS = 23  # of float32
_LOWEST = -0.7 * float(np.finfo(np.float32).max)  # upstream's stand-in for minus infinity


def gumbel_slice(keys: jax.Array, start: int, size: int) -> jax.Array:
    """Noise at places ``start .. start + size`` of ``jax.random.gumbel(key, (1, V))``.

    Args:
      keys: uint32 [B, 2], a raw threefry key a row.
      start: First place; a Python int, so that the counters are constants.
      size: Number of places.

    Returns:
      float32 [B, size].

    Raises:
      RuntimeError: JAX is set to another generator, whose noise can't be computed in part.
    """
    if not jax.config.values["jax_threefry_partitionable"]:
        raise RuntimeError("sampling needs jax_threefry_partitionable, JAX's default")
    shape = (keys.shape[0], size)
    high = jnp.zeros(shape, jnp.uint32)
    low = jnp.broadcast_to(jnp.arange(start, start + size, dtype=jnp.uint32), shape)
    one, two = (jnp.broadcast_to(keys[:, i, None], shape) for i in (0, 1))
    first, second = threefry2x32_p.bind(one, two, high, low)
    return _gumbel_from_bits(first ^ second)


def _gumbel_from_bits(bits: jax.Array) -> jax.Array:
    """JAX's own road from uint32 bits over uniform to Gumbel, float32."""
    tiny = np.finfo(np.float32).tiny
    mantissa = jax.lax.shift_right_logical(bits, jnp.uint32(32 - _MANTISSA_BITS))
    one_to_two = jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32)
    uniform = jnp.maximum(tiny, (one_to_two - 1.0) * (1.0 - tiny) + tiny)
    return -jnp.log(-jnp.log(uniform))


def keep_top_k(logits: jax.Array, top_k: jax.Array) -> jax.Array:
    """Masks all but the ``top_k`` largest of each row, and what ties with the smallest kept.

    Finds the k-th largest by bisection on the ordered bit pattern of float32 (a radix select:
    Knuth, TAOCP 3, 5.2.5) instead of sorting: 32 counts over the row, whatever k is.

    Args:
      logits: float32 [B, V].
      top_k: int32 [B]; values outside 1..V are clipped, as upstream clips them.

    Returns:
      float32 [B, V].
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    # Flips negative floats so that integer order is float order; -0.0 and 0.0 must tie.
    bits = jnp.where(logits == 0.0, 0, bits)
    order = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(jnp.uint32) ^ jnp.uint32(1 << 31)
    wanted = jnp.clip(top_k, 1, logits.shape[-1])

    def refine(i: jax.Array, threshold: jax.Array) -> jax.Array:
        candidate = threshold | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        enough = jnp.sum(order >= candidate[:, None], axis=-1, dtype=jnp.int32) >= wanted
        return jnp.where(enough, candidate, threshold)

    start = jnp.zeros(logits.shape[:1], jnp.uint32)
    threshold = jax.lax.fori_loop(0, 32, refine, start)
    return jnp.where(order >= threshold[:, None], logits, _LOWEST)


def sample(
    logits: jax.Array, keys: jax.Array, first: int, temperature: jax.Array, top_k: jax.Array
) -> jax.Array:
    """Draws one code a row by the Gumbel-max trick.

    Args:
      logits: float32 [B, 1024], of one level.
      keys: uint32 [B, 2].
      first: The level's first token in the full vocabulary.
      temperature: float32 [B].
      top_k: int32 [B].

    Returns:
      int32 [B], tokens of the full vocabulary.
    """
    noise = gumbel_slice(keys, first, logits.shape[-1])
    noisy = keep_top_k(logits, top_k) + noise * temperature[:, None]
    return first + jnp.argmax(noisy, axis=-1).astype(jnp.int32)
