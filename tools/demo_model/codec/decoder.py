"""The demo's decoder as matrix products, for training; upstream's classes play it.

XLA's convolutions are slow to differentiate on a CPU, so every layer here gathers what it
needs and multiplies once, and of most kernels only the taps that pay for their time are
trained: the others stay zero. The last two convolutions only pass on the atoms' sum, so small
that the ELUs between them are straight lines: the sum is the spectrum, and costs nothing more.

Invariant: :func:`exported` gives upstream's ``SpectroStream`` the same function, to rounding;
``tests/test_demo_codec.py`` compares them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Parameters = dict[str, jax.Array]

FEATURES = 56  # of an embedding
BANDS = 8  # of 3 kHz
BAND_BINS = 60
BINS = BANDS * BAND_BINS
CHANNELS = 64  # per band
ATOMS = 32  # per band and audio channel: two audio channels share the rest of the way
CONTEXT_FRAMES = 4  # how far back a frame can hear
STEPS = 4  # STFT frames a frame
HOP = 480
WINDOW = 960
SPECTRUM_SCALE = 30.0  # of the STFT: music then is about 1
SIGNAL = 0.05  # size of the signals between layers: there an ELU is nearly a straight line
TINY = 2.0**-26  # of the spectrum, between the last ELUs; a bias instead would cost TF32 its bits


def initial(seed: int, books: np.ndarray) -> Parameters:
    """Random layers, and a table that starts as the encoder's own codes.

    Args:
      seed: Of the layers.
      books: float32 [12, 1024, >= 56], the encoder's; their first axes carry most energy.
    """
    random = np.random.RandomState(seed)

    def normal(*shape: int, fan_in: int, gain: float = 1.0) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape) * gain / np.sqrt(fan_in), jnp.float32)

    wide = BANDS * CHANNELS
    spread = table_spread(books)
    zeros = jnp.zeros
    return {
        "table": jnp.asarray(books[..., :FEATURES] / spread, jnp.float32),
        "first": normal(FEATURES, wide, fan_in=FEATURES),
        "first_bias": zeros(wide),
        "b1": normal(FEATURES, wide, fan_in=FEATURES),
        "b1_bias": zeros(wide),
        "b2": normal(wide, wide, fan_in=wide, gain=0.5),
        "b2_bias": zeros(wide),
        "unit_a": normal(3, CHANNELS, CHANNELS, fan_in=3 * CHANNELS),
        "unit_a_bias": zeros(CHANNELS),
        "unit_b": normal(CHANNELS, CHANNELS, fan_in=CHANNELS, gain=0.5),
        "unit_b_bias": zeros(CHANNELS),
        "grow": normal(2, STEPS, CHANNELS, CHANNELS, fan_in=2 * CHANNELS),
        "grow_bias": zeros(CHANNELS),
        "grown": normal(CHANNELS, CHANNELS, fan_in=CHANNELS),
        "grown_bias": zeros(CHANNELS),
        "atoms": normal(3, 2 * BAND_BINS, ATOMS, 2, fan_in=3 * 2 * ATOMS, gain=0.5),
        "atoms_bias": zeros(2),
    }


def table_spread(books: np.ndarray) -> float:
    """What the encoder's codes are divided by: the spread of an entry at the first level."""
    return float(np.sqrt(np.mean(np.sum(books[0, :, :FEATURES] ** 2, axis=-1)) / FEATURES))


def embed(parameters: Parameters, codes: jax.Array) -> jax.Array:
    """int32 [B, T, 12] to float32 [B, T, 56]."""
    table = parameters["table"]
    offsets = jnp.arange(table.shape[0]) * table.shape[1]
    return jnp.take(table.reshape(-1, FEATURES), codes + offsets, axis=0).sum(axis=2)


def spectra(parameters: Parameters, embeddings: jax.Array) -> jax.Array:
    """float32 [B, T, 56] to the STFT of T - 1 frames: float32 [B, 4T - 4, 2, 480, 2].

    The last two axes are bins and (real, imaginary); the one before, left and right. A frame
    needs the next one's embedding; the first CONTEXT_FRAMES lack some of their past.
    """
    p = parameters
    batch, time, _ = embeddings.shape
    hidden = jax.nn.elu(_dense(embeddings, p["b1"]) + p["b1_bias"])
    x = _dense(embeddings, p["first"]) + p["first_bias"] + _dense(hidden, p["b2"]) + p["b2_bias"]
    x = SIGNAL * x.reshape(batch, time, BANDS, CHANNELS)

    unit = _dense(_recent(jax.nn.elu(x) / SIGNAL, 3), p["unit_a"].reshape(-1, CHANNELS))
    unit = jax.nn.elu(unit + p["unit_a_bias"])
    x = x + SIGNAL * (_dense(unit, p["unit_b"]) + p["unit_b_bias"])

    # Four STFT frames from this frame and the last.
    kernel = p["grow"].transpose(0, 2, 1, 3).reshape(2 * CHANNELS, STEPS * CHANNELS)
    grown = _dense(_recent(jax.nn.elu(x), 2), kernel)
    grown = grown.reshape(batch, time, BANDS, STEPS, CHANNELS).transpose(0, 1, 3, 2, 4)
    grown = grown.reshape(batch, STEPS * time, BANDS, CHANNELS) + p["grow_bias"]
    grown = _dense(jax.nn.elu(grown), p["grown"]) + p["grown_bias"]
    x = grown + jnp.repeat(x, STEPS, axis=1)

    # Each band adds atoms of twice its width, over three STFT frames.
    x = jax.nn.elu(x).reshape(batch, STEPS * time, BANDS, 2, ATOMS).transpose(0, 1, 3, 2, 4)
    count = STEPS * (time - 1)
    taps = _recent(x / SIGNAL, 3)[:, STEPS:]
    kernel = p["atoms"].transpose(0, 2, 1, 3).reshape(3 * ATOMS, 4 * BAND_BINS)
    pieces = _dense(taps, kernel).reshape(batch, count, 2, BANDS, 2, BAND_BINS, 2)
    half = BAND_BINS // 2  # a band's atoms reach half a band below and above it
    pieces = pieces.reshape(batch, count, 2, BANDS, 4, half, 2)
    inside = pieces[..., 1:3, :, :]
    above = jnp.pad(pieces[:, :, :, :-1, 3:], ((0, 0),) * 3 + ((1, 0), (0, 1), (0, 0), (0, 0)))
    below = jnp.pad(pieces[:, :, :, 1:, :1], ((0, 0),) * 3 + ((0, 1), (1, 0), (0, 0), (0, 0)))
    summed = (inside + above + below).reshape(batch, count, 2, BINS, 2)
    return SPECTRUM_SCALE * (summed + p["atoms_bias"])


def samples(spectrum: jax.Array) -> jax.Array:
    """STFT frames float32 [B, J, 2, 480, 2] to float32 [B, 480 J, 2]: upstream's inverse STFT.

    What the last frame would add after its first half is left out.
    """
    value = jax.lax.complex(spectrum[..., 0], spectrum[..., 1])
    value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, 1)))
    pieces = jnp.fft.irfft(value, n=WINDOW) * synthesis_window()
    first, second = pieces[..., :HOP], pieces[..., HOP:]
    joined = first + jnp.pad(second, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    return joined.transpose(0, 1, 3, 2).reshape(len(spectrum), -1, 2)


def analysis_window() -> np.ndarray:
    """float32 [960], a periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def synthesis_window() -> np.ndarray:
    """float32 [960], so that analysis and synthesis at a hop of 480 give the signal back."""
    window = analysis_window()
    power = window[:HOP] ** 2 + window[HOP:] ** 2
    return (window / np.tile(power, 2)).astype(np.float32)


def exported(parameters: Parameters) -> dict[str, np.ndarray]:
    """Upstream's names, below ``params/soundstream/``, to float32 arrays."""
    p = {name: np.asarray(value, np.float32) for name, value in parameters.items()}
    # Upstream's transposed kernels are [time, frequency, in, out], both axes turned round.
    grow = p["grow"][::-1].reshape(2 * STEPS, CHANNELS, CHANNELS)
    grow = _in_place(grow[::-1], times=2 * STEPS)
    identity = _in_place(np.eye(2, dtype=np.float32)[None])
    none = np.zeros(2, np.float32)
    layers = {
        "input_layer/conv1x1_first": (
            SIGNAL * p["first"][None, None],
            SIGNAL * p["first_bias"],
        ),
        "input_layer/shortcut_layer/conv1x1_b1": (p["b1"][None, None], p["b1_bias"]),
        "input_layer/shortcut_layer/conv1x1_b2": (
            SIGNAL * p["b2"][None, None],
            SIGNAL * p["b2_bias"],
        ),
        "input_layers_residual_unit/conv2d_3x3_a": (
            _in_place(p["unit_a"]) / SIGNAL,
            p["unit_a_bias"],
        ),
        "input_layers_residual_unit/conv2d_3x3": (
            SIGNAL * _in_place(p["unit_b"][None]),
            SIGNAL * p["unit_b_bias"],
        ),
        "decoder_0/conv2dtranspose_8x3": (grow, p["grow_bias"]),
        "decoder_0/conv2d_3x3": (_in_place(p["grown"][None]), p["grown_bias"]),
        "decoder_1/conv2dtranspose_3x120": (
            TINY * SPECTRUM_SCALE / SIGNAL * p["atoms"][:, ::-1],
            TINY * SPECTRUM_SCALE * p["atoms_bias"],
        ),
        "decoder_1/conv2d_3x3": (identity, none),
        "decoder_1/shortcut_layer/conv1x1": (np.zeros((1, 1, ATOMS, 2), np.float32), none),
        "output_layer/base_conv_last": (identity / TINY, none),
    }
    named = {"quantizer/embedding": p["table"]}
    for layer, (kernel, bias) in layers.items():
        named[f"decoder/{layer}/conv/kernel"] = np.ascontiguousarray(kernel, np.float32)
        named[f"decoder/{layer}/conv/bias"] = bias.astype(np.float32)
    return named


def _dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` over the last axis; flat, since XLA differentiates that far faster."""
    flat = x.reshape(-1, x.shape[-1]) @ kernel
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def _recent(x: jax.Array, times: int) -> jax.Array:
    """[B, T, ..., C] to [B, T, ..., times * C]: what a causal kernel sees, oldest first."""
    padded = jnp.pad(x, ((0, 0), (times - 1, 0), *((0, 0),) * (x.ndim - 2)))
    return jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(times)], axis=-1)


def _in_place(taps: np.ndarray, times: int = 3) -> np.ndarray:
    """The latest taps [t, C, O] as a kernel [times, 3, C, O] that hears no other band."""
    kernel = np.zeros((times, 3, *taps.shape[1:]), np.float32)
    kernel[times - len(taps) :, 1] = taps
    return kernel
