"""A checkpoint's parameters, as ``graph`` wants them stored.

Upstream's tree becomes ours once, at load:

1. the head [d, 12294] is cut into 12 leaves [d, 1024]: a slice inside the compiled step would
   be a copy a frame, and so would one stacked leaf;
2. attention's output projections [d, n, h] are stored as [h, n, d], the order in which XLA
   contracts them, or it lays out all of them anew each frame (:func:`restore` turns them back
   inside the compiled step, where that is free);
3. of the codec's 64 RVQ tables the 12 used ones are kept, and what only training uses is left;
4. what the language model casts to its compute dtype anyway is stored in it.

Invariant: the values that the computation sees are those it would see with float32 storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import safetensors.flax

from magenta_bento.model.architecture import DType
from magenta_bento.model.graph import head_name

Path_ = tuple[str, ...]
Params = dict[str, Any]

_HEAD = ("params", "depthformer", "decoder", "depth_body", "to_logits")
_RVQ_TABLE = ("params", "soundstream", "quantizer", "embedding")
_PROJECTION = ("output_projection", "kernel")
_LANGUAGE_MODEL = ("params", "depthformer")
# Casting the attention sinks changes 41% of the codes: they join the keys after the cast.
_KEPT_IN_FLOAT32 = ("sink_key_embeddings", "sink_value_embeddings", "sink_scalars")


def load(
    checkpoint: Path, *, reserved: int, levels: int, codebook_size: int, dtype: DType
) -> Params:
    """Reads a checkpoint into the tree that ``graph.sampler_config`` expects.

    Args:
      checkpoint: A safetensors file with upstream's slash-separated names.
      reserved: Reserved tokens in front of the first level's codes.
      levels: RVQ levels that are used.
      codebook_size: Codes of a level.
      dtype: What the language model computes in.

    Returns:
      Nested parameters, on the default device.
    """
    flat = {
        tuple(name.split("/")): value
        for name, value in safetensors.flax.load_file(str(checkpoint)).items()
    }
    ready = dict(prepare(flat, reserved=reserved, levels=levels, codebook_size=codebook_size))
    return _nest({path: _stored(path, value, dtype) for path, value in ready.items()})


def prepare(
    flat: Mapping[Path_, jax.Array], *, reserved: int, levels: int, codebook_size: int
) -> Mapping[Path_, jax.Array]:
    """Upstream's flat tree, rearranged as points 1 to 3 above say."""
    ready: dict[Path_, jax.Array] = {}
    for path, value in flat.items():
        if path[:-1] == _HEAD:
            for level in range(levels):
                first = reserved + level * codebook_size
                part = jax.lax.slice_in_dim(value, first, first + codebook_size, axis=-1)
                ready[(*_HEAD[:-2], head_name(level), path[-1])] = part
        elif path == _RVQ_TABLE:
            ready[path] = value[:levels]
        elif _is_projection(path):
            ready[path] = value.transpose(2, 1, 0)
        elif path[1] == "depthformer" or path[2] in ("decoder", "quantizer"):
            ready[path] = value
    return ready


def restore(params: Params) -> Params:
    """Undoes the stored order of the output projections; call it inside jit."""
    return _map_paths(params, lambda p, v: v.transpose(2, 1, 0) if _is_projection(p) else v)


def size_bytes(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _stored(path: Path_, value: jax.Array, dtype: DType) -> jax.Array:
    in_language_model = path[: len(_LANGUAGE_MODEL)] == _LANGUAGE_MODEL
    if in_language_model and path[-1] not in _KEPT_IN_FLOAT32:
        return value.astype(dtype)
    return jnp.asarray(value, jnp.float32)


def _is_projection(path: Path_) -> bool:
    return path[-2:] == _PROJECTION


def _map_paths(params: Params, change: Callable[[Path_, jax.Array], jax.Array]) -> Params:
    flat = flax.traverse_util.flatten_dict(params)
    return _nest({path: change(path, value) for path, value in flat.items()})


def _nest(flat: Mapping[Path_, jax.Array]) -> Params:
    nested: Params = flax.traverse_util.unflatten_dict(flat)
    return nested
