"""What the audio encoder hears of a clip: log band powers, then how they behave over time.

1. 10 s at 16 kHz become the log powers of 48 bands, every 20 ms.
2. These become one summary vector: level, spread and onsets of every band, and at which rates
   the onsets of eight groups of bands repeat, which is how tempo and groove show.

Invariant: everything here is written twice, in numpy for training and as LiteRT operators in
:mod:`tools.demo_model.style.graphs`; a test holds both to the same numbers.
"""

from __future__ import annotations

import numpy as np

CLIP_SAMPLES = 160_000  # 10 s
SAMPLE_RATE_HZ = 16_000

WINDOW_SAMPLES = 640  # 40 ms: one frame of music
HOP_SAMPLES = 320  # 20 ms: half a frame, so that no onset falls between two windows
FRAMES = (CLIP_SAMPLES - WINDOW_SAMPLES) // HOP_SAMPLES + 1
BANDS = 48
LOWEST_BAND_HZ = 40.0
HIGHEST_BAND_HZ = 7_500.0
PERIODS = 14  # a band's window holds this many periods where it can: high bands are wide
SHORTEST_WINDOW_SAMPLES = 320
SILENCE_POWER = 1e-6  # keeps the logarithm of silence finite

# Log powers of music lie around -9 +- 3.
USUAL_LOG_POWER = -9.0
LOG_POWER_SPREAD = 3.0
GROUPS = 8  # of BANDS // GROUPS bands each
PULSES_HZ = np.geomspace(0.5, 12.5, 28)  # from a bar to the fastest sixteenth
PULSE_FLOOR = 1e-5
SPREAD_FLOOR = 1e-4
SUMMARY_SIZE = 4 * BANDS + GROUPS * len(PULSES_HZ)


def band_filters() -> np.ndarray:
    """Windowed cosines, then sines, evenly spaced in pitch: float32 [96, 640]."""
    centres_hz = np.geomspace(LOWEST_BAND_HZ, HIGHEST_BAND_HZ, BANDS)
    filters = np.zeros((2, BANDS, WINDOW_SAMPLES))
    for band, centre_hz in enumerate(centres_hz):
        periods = int(PERIODS * SAMPLE_RATE_HZ / centre_hz)
        size = min(max(periods, SHORTEST_WINDOW_SAMPLES), WINDOW_SAMPLES)
        start = (WINDOW_SAMPLES - size) // 2
        window = np.hanning(size) / (size / 4)  # a sine of amplitude 1 then has power 1
        phase = 2 * np.pi * centre_hz * np.arange(size) / SAMPLE_RATE_HZ
        filters[0, band, start : start + size] = window * np.cos(phase)
        filters[1, band, start : start + size] = window * np.sin(phase)
    return filters.reshape(2 * BANDS, WINDOW_SAMPLES).astype(np.float32)


def log_bands(samples: np.ndarray) -> np.ndarray:
    """Samples float32 [160000] at 16 kHz to log band powers float32 [499, 48]."""
    framed = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    parts = framed @ band_filters().T
    power = parts[:, :BANDS] ** 2 + parts[:, BANDS:] ** 2
    return np.log(np.maximum(power, np.float32(SILENCE_POWER)))


def pulse_filters() -> np.ndarray:
    """Windowed cosines, then sines, of the rates of ``PULSES_HZ``: float32 [56, 498]."""
    time_s = np.arange(FRAMES - 1) * HOP_SAMPLES / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.outer(PULSES_HZ, time_s)
    window = np.hanning(FRAMES - 1) / (FRAMES / 4)
    return (np.concatenate([np.cos(phase), np.sin(phase)]) * window).astype(np.float32)


def summary(features: np.ndarray) -> np.ndarray:
    """Log band powers float32 [499, 48] to float32 [416]: what stays the same over time."""
    scaled = (features - np.float32(USUAL_LOG_POWER)) * np.float32(1 / LOG_POWER_SPREAD)
    mean = scaled.mean(axis=0)
    spread = np.sqrt(np.mean((scaled - mean) ** 2, axis=0) + np.float32(SPREAD_FLOOR))
    rise = np.maximum(scaled[1:] - scaled[:-1], 0)
    strong = np.sqrt(np.mean(rise**2, axis=0) + np.float32(SPREAD_FLOOR))
    grouped = rise.reshape(FRAMES - 1, GROUPS, BANDS // GROUPS).mean(axis=2)
    parts = (grouped.T @ pulse_filters().T).reshape(GROUPS, 2, len(PULSES_HZ))
    pulses = np.log(np.sum(parts**2, axis=1) + np.float32(PULSE_FLOOR))
    return np.concatenate([mean, spread, rise.mean(axis=0), strong, pulses.ravel()])
