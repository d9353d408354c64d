"""How far a decoded spectrum is from the music: complex, compressed, at several resolutions.

Compression is by a power law, |X| ** 0.4, with the phase kept: quiet partials then count, and
loud ones do not drown them (Ephrat et al. 2018; Braun & Tashev 2021). A second term ignores the
phase, so that what cannot be predicted keeps its loudness instead of shrinking. Bins count as
ears do, about equally per octave; and since that hardly feels the level of a loud bass, the
samples' own squared error has a share.

Invariant: zero only for equal sound; everything is differentiable at silence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tools.demo_model.codec import decoder

POWER = 0.4
FLOOR = 0.1  # of an STFT magnitude; full scale is 240
MAGNITUDE_SHARE = 1.0
LONG_WINDOW, LONG_HOP = 4_096, 1_024
LONG_BINS = 1_024  # up to 12 kHz
LONG_SHARE = 0.5
SAMPLES_SHARE = 0.2
KNEE_HZ = 150.0  # above it a bin weighs as the inverse of its frequency


def distance(spectra: jax.Array, samples: jax.Array) -> jax.Array:
    """Decoded STFT float32 [B, J, 2, 480, 2] against samples float32 [B, 480 (J + 1), 2]."""
    short = _compressed_distance(spectra, stft(samples), 24_000.0)
    heard = decoder.samples(spectra)[:, decoder.HOP :]  # the first hop lacks its past
    wanted = samples[:, decoder.HOP : -decoder.HOP]
    scale = decoder.WINDOW / LONG_WINDOW
    long_hz = 48_000.0 * LONG_BINS / LONG_WINDOW
    long = _compressed_distance(scale * _long(heard), scale * _long(wanted), long_hz)
    error = jnp.sum((heard - wanted) ** 2, axis=(1, 2))
    plain = jnp.mean(error / (jnp.sum(wanted**2, axis=(1, 2)) + 1e-4 * wanted.shape[1]))
    return short + LONG_SHARE * long + SAMPLES_SHARE * plain


def stft(samples: jax.Array) -> jax.Array:
    """Samples float32 [B, 480 (J + 1), 2] to upstream's STFT: float32 [B, J, 2, 480, 2]."""
    blocks = samples.reshape(len(samples), -1, decoder.HOP, 2).transpose(0, 1, 3, 2)
    windows = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1)
    value = jnp.fft.rfft(windows * decoder.analysis_window())[..., : decoder.BINS]
    return jnp.stack([value.real, value.imag], axis=-1)


def _long(samples: jax.Array) -> jax.Array:
    """STFT of a longer window, which tells low partials apart: [B, J, 2, 1024, 2]."""
    count = (samples.shape[1] - LONG_WINDOW) // LONG_HOP + 1
    pieces = LONG_WINDOW // LONG_HOP
    blocks = samples[:, : (count + pieces - 1) * LONG_HOP]
    blocks = blocks.reshape(len(samples), -1, LONG_HOP, 2).transpose(0, 1, 3, 2)
    windows = jnp.concatenate([blocks[:, i : i + count] for i in range(pieces)], axis=-1)
    value = jnp.fft.rfft(windows * np.hanning(LONG_WINDOW).astype(np.float32))
    value = value[..., :LONG_BINS]
    return jnp.stack([value.real, value.imag], axis=-1)


def _compressed_distance(heard: jax.Array, wanted: jax.Array, highest_hz: float) -> jax.Array:
    """Weighted mean over [..., bins, (real, imaginary)]; bins reach from 0 to highest_hz."""
    bins_hz = np.linspace(0.0, highest_hz, heard.shape[-2], endpoint=False)
    weights = 1 / (bins_hz + KNEE_HZ)
    weights = (weights / weights.mean()).astype(np.float32)
    heard_log = jnp.log(jnp.sum(heard**2, axis=-1) + FLOOR**2)
    wanted_log = jnp.log(jnp.sum(wanted**2, axis=-1) + FLOOR**2)
    # exp and log, since XLA computes powers one by one.
    heard_small = heard * jnp.exp((POWER - 1) / 2 * heard_log)[..., None]
    wanted_small = wanted * jnp.exp((POWER - 1) / 2 * wanted_log)[..., None]
    phase_too = jnp.sum((heard_small - wanted_small) ** 2, axis=-1)
    heard_level, wanted_level = jnp.exp(POWER / 2 * heard_log), jnp.exp(POWER / 2 * wanted_log)
    loudness = (heard_level - wanted_level) ** 2
    return jnp.mean((phase_too + MAGNITUDE_SHARE * loudness) * weights)
