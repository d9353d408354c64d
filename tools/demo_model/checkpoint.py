"""The demo's parameters: the sampler's own initialisation, then shaped to be heard.

Random weights as they come are silent, or deaf to the prompt: style tables start at zero and
attention to them drowns in the residual stream. Here the tables are filled, style is turned
up, the codec is tilted towards low frequencies, and its last layer sets the loudness.

Invariant: names, shapes and dtypes stay those of ``initial``, which are those of a real
checkpoint; the same code gives the same values.
"""

from __future__ import annotations

import flax.core.meta
import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import sequence_layers.jax as sl
from magenta_rt.config import PIANOROLL_WITH_ONSETS

from magenta_bento.model.architecture import CONDITIONING_SIZE, Architecture

Parameters = dict[str, np.ndarray]  # slash-separated name to float32 array

SEED = 20_260_101

STYLE_GAIN = 6.0  # of attention to the style, beside a residual stream of about 1
# Of one note, drum or guidance bin: upstream averages these over 132 channels, while the 12
# style tokens add up to about 3.5.
CONTROL_SCALE = 100.0
MASKED_TOKEN = 6  # "not given", in every channel's own numbering; 7 is the first given value
NOTE_OFF_SHARE = 0.02  # so that 128 notes off, together, weigh less than one on
LOGIT_GAIN = 10.0  # at 1 all codes are about as likely, whatever the style
CODE_SHRINK = 0.45  # each RVQ level adds less, as a trained one's do
# Of the 5 coarse bands of 4.8 kHz that the decoder starts from, low to high.
BAND_GAINS = (1.0, 0.35, 0.12, 0.05, 0.02)
COARSE_LAYERS = ("input_layers_residual_unit/", "decoder_0/conv2d")
BAND_LEAK = 0.1  # how much of its neighbours a coarse band keeps hearing


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


def untrained(architecture: Architecture) -> Parameters:
    """The demo's parameters but for their loudness: see :func:`amplified`."""
    made = jax.jit(lambda key: initial(architecture, key))(jax.random.PRNGKey(SEED))
    parameters = {name: np.array(value) for name, value in made.items()}
    random = np.random.RandomState(SEED)  # its stream is frozen across numpy versions
    for name in sorted(parameters):
        parameters[name] = _shaped(name, parameters[name], random).astype(np.float32)
    return parameters


def amplified(parameters: Parameters, gain: float) -> Parameters:
    """The same parameters, their audio multiplied: the last layer and the inverse STFT that
    follows are linear."""
    last = "params/soundstream/decoder/output_layer/base_conv_last/conv/"
    return {
        name: value * np.float32(gain) if name.startswith(last) else value
        for name, value in parameters.items()
    }


def _shaped(name: str, value: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    if name.endswith("mulan_dequantizer/embedding"):
        return random.standard_normal(value.shape)
    if name.endswith("regular_embedder/embedding"):
        return _control_table(random.standard_normal(value.shape) * CONTROL_SCALE)
    if name.endswith("cross_attention/post_norm/scale"):
        return value * STYLE_GAIN
    if name.endswith("to_logits/kernel"):
        return value * LOGIT_GAIN
    if name.endswith("quantizer/embedding"):
        levels = CODE_SHRINK ** np.arange(value.shape[0])
        return random.standard_normal(value.shape) * levels[:, None, None]
    if "input_layer/" in name and ("conv1x1_first" in name or "conv1x1_b2" in name):
        channels = value.shape[-1] // len(BAND_GAINS)
        return value * np.repeat(BAND_GAINS, channels)
    if name.endswith("kernel") and any(layer in name for layer in COARSE_LAYERS):
        centre_only = np.array([BAND_LEAK, 1.0, BAND_LEAK])
        return value * centre_only[:, None, None]  # [time, frequency, in, out]
    return value


def _control_table(table: np.ndarray) -> np.ndarray:
    """Makes "not given" weigh nothing and "note off" little; table: [rows, width]."""
    note = PIANOROLL_WITH_ONSETS
    notes = table[: note.rvq_levels * note.per_rvq_vocab_size]
    notes = notes.reshape(note.rvq_levels, note.per_rvq_vocab_size, -1)  # a view
    notes[:, MASKED_TOKEN] = 0
    notes[:, MASKED_TOKEN + 1] *= NOTE_OFF_SHARE
    table[len(notes) * note.per_rvq_vocab_size + MASKED_TOKEN] = 0  # the drums come next
    return table
