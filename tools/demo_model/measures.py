"""What a piece of music does, in numbers: simple measures of the signal, without training.

They are for comparing two sounds of this demo with each other, not for judging music.

Invariant: each takes samples float32 [N, 2] at 48 kHz, full scale 1, N at least a second.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

SAMPLE_RATE_HZ = 48_000
FRAME_SAMPLES = 1_920
SILENT = 1e-10  # power; keeps logarithms and shares of silence finite

ONSET_WINDOW, ONSET_HOP = 1_024, 480
ONSET_RISE = 1.6  # times the usual flux of the second around it …
LEAST_RISE = 0.1  # … and of something that rises so much, nepers
ONSET_SPACING_HOPS = 6  # 60 ms
TONE_WINDOW, TONE_HOP, TONE_MEDIAN = 4_096, 1_024, 17
PITCH_WINDOW = 8_192
LOWEST_PITCH_HZ, HIGHEST_PITCH_HZ = 60.0, 2_000.0
AUDIBLE_DBFS = -55.0


def onsets_per_s(samples: np.ndarray) -> float:
    """How many sounds begin in a second: peaks of the spectral flux (Bello 2005)."""
    flux = _flux(samples)
    around = SAMPLE_RATE_HZ // ONSET_HOP // 2  # half a second to each side
    padded = np.pad(flux, around, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * around + 1)
    usual = windows.mean(axis=1) + LEAST_RISE
    rises = flux > ONSET_RISE * usual
    spaced = np.pad(flux, ONSET_SPACING_HOPS // 2, mode="constant")
    highest = np.lib.stride_tricks.sliding_window_view(spaced, ONSET_SPACING_HOPS + 1).max(axis=1)
    return float(np.sum(rises & (flux == highest))) / (len(samples) / SAMPLE_RATE_HZ)


def tonal_share(samples: np.ndarray) -> float:
    """The share of the power that stays at its pitch, 0 to 1.

    By medians along time and along frequency (FitzGerald 2010, "Harmonic/percussive separation
    using median filtering").
    """
    magnitude = np.abs(_stft(samples, TONE_WINDOW, TONE_HOP))
    steady = median_filter(magnitude, (TONE_MEDIAN, 1), mode="mirror")
    sudden = median_filter(magnitude, (1, TONE_MEDIAN), mode="mirror")
    power = magnitude**2
    mask = steady**2 / (steady**2 + sudden**2 + SILENT)
    return float(np.sum(mask * power) / (np.sum(power) + SILENT))


def share_below(samples: np.ndarray, hz: float) -> float:
    """The share of the power below a frequency, 0 to 1."""
    power = np.sum(np.abs(_stft(samples, TONE_WINDOW, TONE_HOP)) ** 2, axis=0)
    return float(np.sum(power[_bins_hz(TONE_WINDOW) < hz]) / (np.sum(power) + SILENT))


def centroid_hz(samples: np.ndarray) -> float:
    """The mean frequency, weighted by magnitude."""
    magnitude = np.sum(np.abs(_stft(samples, TONE_WINDOW, TONE_HOP)), axis=0)
    return float(np.sum(magnitude * _bins_hz(TONE_WINDOW)) / (np.sum(magnitude) + SILENT))


def pitch_classes(samples: np.ndarray) -> np.ndarray:
    """The strongest pitch class of each frame.

    Returns:
      int [N // 1920]: 0 for C to 11 for B; -1 where a frame is too quiet to tell.
    """
    samples = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES]
    spectra = np.abs(_stft(samples, PITCH_WINDOW, FRAME_SAMPLES)) ** 2  # centred on frames
    hz = _bins_hz(PITCH_WINDOW)
    heard = (hz > LOWEST_PITCH_HZ) & (hz < HIGHEST_PITCH_HZ)
    classes = np.round(12 * np.log2(hz[heard] / 440.0)).astype(int) + 9
    # High partials are other notes' pitch classes: they count less, as one over frequency.
    weighted = spectra[:, heard] / hz[heard]
    chroma = np.stack([weighted[:, classes % 12 == c].sum(axis=1) for c in range(12)], axis=1)
    strongest = np.argmax(chroma, axis=1)
    frames = samples.reshape(len(strongest), -1)
    return np.where(_dbfs(frames) > AUDIBLE_DBFS, strongest, -1)


def loudness_dbfs(samples: np.ndarray, window_s: float) -> np.ndarray:
    """RMS of each whole window, dB below full scale: float [N // window]."""
    size = round(window_s * SAMPLE_RATE_HZ)
    count = len(samples) // size
    return _dbfs(samples[: count * size].reshape(count, -1))


def _dbfs(rows: np.ndarray) -> np.ndarray:
    level: np.ndarray = 10 * np.log10(np.mean(rows.astype(np.float64) ** 2, axis=1) + SILENT)
    return level


def _flux(samples: np.ndarray) -> np.ndarray:
    """Mean rise of the level in a hop, in nepers, of what is within 60 dB of the loudest."""
    power = np.abs(_stft(samples, ONSET_WINDOW, ONSET_HOP)) ** 2
    level = 0.5 * np.log(power + 1e-6 * power.max() + SILENT)
    rise = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0)
    return rise.mean(axis=1)


def _stft(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    """complex [frames, window / 2 + 1] of the mean of both channels, centred on each hop."""
    mono = np.pad(samples.mean(axis=1), window // 2)
    rows = np.lib.stride_tricks.sliding_window_view(mono, window)[hop // 2 :: hop]
    return np.fft.rfft(rows * np.hanning(window), axis=1)


def _bins_hz(window: int) -> np.ndarray:
    return np.fft.rfftfreq(window, 1 / SAMPLE_RATE_HZ)
