"""A checkpoint of the demo: names and shapes as the sampler itself would make them.

Invariant: names, shapes and dtypes of :func:`initial` are those of a real checkpoint.
"""

from __future__ import annotations

import flax.core.meta
import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import sequence_layers.jax as sl

from magenta_bento.model.architecture import CONDITIONING_SIZE, Architecture

Parameters = dict[str, np.ndarray]  # slash-separated name to float32 array


def initial(architecture: Architecture, key: jax.Array) -> dict[str, jax.Array]:
    """Every parameter that the sampler uses, as flax initialises it.

    Traceable, so that ``jax.eval_shape`` tells the shapes of models too large to make.
    """
    sampler = architecture.sampler_config(jnp.float32).make()
    conditioning = sl.Sequence.from_values(jnp.zeros((1, 1, CONDITIONING_SIZE), jnp.int32))
    sampling = {"temperature": jnp.ones(1), "top_k": jnp.ones(1, jnp.int32)}

    def one_step(module: sl.SequenceLayer) -> None:
        spec = conditioning.channel_spec
        state = module.get_initial_state(1, spec, training=False, constants={})
        module.step_with_emits(conditioning, state, training=False, constants=sampling)

    boxed = sampler.init({"params": key, "random": key}, method=one_step)
    flat: dict[str, jax.Array] = flax.traverse_util.flatten_dict(
        flax.core.meta.unbox(boxed), sep="/"
    )
    return flat


def amplified(parameters: Parameters, gain: float) -> Parameters:
    """The same parameters, their audio multiplied: the last layer and the inverse STFT that
    follows are linear."""
    last = "params/soundstream/decoder/output_layer/base_conv_last/conv/"
    return {
        name: value * np.float32(gain) if name.startswith(last) else value
        for name, value in parameters.items()
    }
