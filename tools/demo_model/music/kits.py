"""The drum kits: every hit is one fixed buffer.

Invariant: a hit depends on kit, drum and velocity class alone; its noise is the same each time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import scipy.signal

from tools.demo_model.music.synth import SAMPLE_RATE_HZ, VELOCITY_GAIN

KIT_GAIN = 1.1  # of all, against the tonal parts

# kick, snare, clap or rim, closed hat, open hat or ride, tom, a kit's own percussion, crash
DRUMS = ("k", "s", "c", "h", "o", "t", "p", "x")


def _seconds(length_s: float) -> np.ndarray:
    return np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _fade(t: np.ndarray, decay_s: float, attack_s: float = 0.0005) -> np.ndarray:
    """An exponential decay that reaches zero at the end of the buffer."""
    closing = np.minimum(1.0, (t[-1] - t) / 0.01)
    shaped: np.ndarray = np.minimum(t / attack_s, 1.0) * np.exp(-t / decay_s) * closing
    return shaped


def _sweep(start_hz: float, end_hz: float, sweep_s: float, decay_s: float) -> np.ndarray:
    """A falling sine: kicks and toms."""
    t = _seconds(5 * decay_s)
    cycles = end_hz * t + (start_hz - end_hz) * sweep_s * (1 - np.exp(-t / sweep_s))
    tone: np.ndarray = np.sin(2 * np.pi * cycles) * _fade(t, decay_s, 0.001)
    return tone


def _noise(
    seed: int, low_hz: float, high_hz: float, decay_s: float, attack_s: float = 0.0005
) -> np.ndarray:
    """Filtered noise of peak about 1."""
    t = _seconds(5 * decay_s)
    white = np.random.RandomState(seed).standard_normal(len(t))
    band = scipy.signal.butter(2, (low_hz, high_hz), "band", fs=SAMPLE_RATE_HZ, output="sos")
    colored = scipy.signal.sosfilt(band, white)
    colored /= 3 * np.std(colored)
    shaped: np.ndarray = colored * _fade(t, decay_s, attack_s)
    return shaped


def _metal(hz: tuple[float, ...], decay_s: float) -> np.ndarray:
    """Inharmonic partials: cymbals, bells, wood."""
    t = _seconds(5 * decay_s)
    tones = sum(np.sin(2 * np.pi * f * t) for f in hz) / len(hz)
    shaped: np.ndarray = np.asarray(tones) * _fade(t, decay_s)
    return shaped


def _sum(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    total = np.zeros(max(len(part) for _, part in parts))
    for gain, part in parts:
        total[: len(part)] += gain * part
    return total


def _clap(seed: int) -> np.ndarray:
    burst = _noise(seed, 900.0, 4_000.0, 0.006)
    tail = _noise(seed + 1, 900.0, 4_500.0, 0.06)
    total = np.zeros(round(0.03 * SAMPLE_RATE_HZ) + len(tail))
    for start_s in (0.0, 0.011, 0.021):
        start = round(start_s * SAMPLE_RATE_HZ)
        total[start : start + len(burst)] += burst
    total[-len(tail) :] += tail
    return total


# Each gives (mono buffer, peak gain, pan).
Hit = tuple[np.ndarray, float, float]
KITS: Mapping[str, Mapping[str, Callable[[], Hit]]] = {
    "electronic": {
        "k": lambda: (_sum((1.0, _sweep(190, 50, 0.022, 0.085))), 0.32, 0.0),
        "s": lambda: (
            _sum((0.6, _sweep(280, 185, 0.02, 0.06)), (0.7, _noise(1, 1_200, 8_000, 0.07))),
            0.28,
            0.0,
        ),
        "c": lambda: (_clap(2), 0.25, 0.1),
        "h": lambda: (_noise(4, 7_000, 12_000, 0.022), 0.13, 0.25),
        "o": lambda: (_noise(5, 6_500, 12_000, 0.08), 0.12, 0.25),
        "t": lambda: (_sweep(210, 95, 0.05, 0.085), 0.24, -0.3),
        "p": lambda: (_metal((540, 800, 1_080, 1_600), 0.06), 0.13, -0.35),
        "x": lambda: (_noise(6, 4_000, 11_000, 0.3), 0.11, -0.2),
    },
    "acoustic": {
        "k": lambda: (
            _sum((1.0, _sweep(130, 58, 0.016, 0.055)), (0.15, _noise(11, 1_500, 4_000, 0.008))),
            0.31,
            0.0,
        ),
        "s": lambda: (
            _sum(
                (0.45, _metal((184, 331), 0.06)),
                (0.8, _noise(12, 600, 6_500, 0.09)),
            ),
            0.28,
            0.05,
        ),
        "c": lambda: (
            _sum((0.6, _metal((430, 1_130, 1_720), 0.025)), (0.3, _noise(13, 1_500, 5_000, 0.012))),
            0.17,
            0.05,
        ),
        "h": lambda: (
            _sum((0.7, _noise(14, 5_500, 11_000, 0.03)), (0.3, _metal((5_230, 7_410), 0.03))),
            0.12,
            0.3,
        ),
        "o": lambda: (  # a ride
            _sum((0.5, _noise(15, 5_000, 10_000, 0.12)), (0.6, _metal((3_170, 4_630, 6_110), 0.2))),
            0.085,
            -0.3,
        ),
        "t": lambda: (_sweep(150, 100, 0.05, 0.1), 0.24, -0.25),
        "p": lambda: (  # a conga
            _sum((0.9, _sweep(300, 250, 0.02, 0.07)), (0.2, _noise(16, 800, 3_000, 0.012))),
            0.17,
            0.35,
        ),
        "x": lambda: (_noise(17, 3_000, 10_000, 0.32), 0.12, -0.2),
    },
    "soft": {
        "k": lambda: (_sum((1.0, _sweep(95, 52, 0.016, 0.06))), 0.25, 0.0),
        "s": lambda: (  # a brush
            _sum((0.8, _noise(21, 900, 5_000, 0.07, 0.006)), (0.25, _metal((196,), 0.05))),
            0.20,
            0.05,
        ),
        "c": lambda: (_metal((620, 1_480), 0.018), 0.13, 0.1),  # a rim
        "h": lambda: (_noise(22, 4_000, 8_000, 0.025), 0.09, 0.25),
        "o": lambda: (
            _sum((0.4, _noise(23, 4_000, 8_000, 0.1)), (0.5, _metal((2_930, 4_270), 0.2))),
            0.06,
            -0.3,
        ),
        "t": lambda: (_sweep(120, 82, 0.05, 0.09), 0.20, -0.2),
        "p": lambda: (_noise(24, 5_000, 10_000, 0.02, 0.015), 0.09, -0.35),  # a shaker
        "x": lambda: (_noise(25, 3_000, 8_000, 0.3, 0.01), 0.07, -0.2),
    },
}


@functools.cache
def hit(kit: str, drum: str, velocity: int) -> np.ndarray:
    """float32 [samples, 2] of one stroke; velocity is 0, 1 or 2."""
    mono, gain, pan = KITS[kit][drum]()
    mono = mono / np.max(np.abs(mono)) * KIT_GAIN * gain * VELOCITY_GAIN[velocity]
    angle = (pan + 1) * np.pi / 4
    sides = np.array([np.cos(angle), np.sin(angle)]) * np.sqrt(2)
    sound: np.ndarray = (mono[:, None] * sides).astype(np.float32)
    sound.setflags(write=False)
    return sound
