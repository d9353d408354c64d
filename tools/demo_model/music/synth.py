"""Renders one note of a preset: a deterministic function of preset, pitch, velocity and age.

A note reads two wavetables (its soft and its bright spectrum) at one phase, fades between them
and is multiplied by its envelope; its end multiplies what follows by a release.

Invariant: no state and no chance; a note's first n samples are the same however long it is held.
"""

from __future__ import annotations

import functools

import numpy as np

from tools.demo_model.music.preset import Preset, Spectrum
from tools.demo_model.music.presets import PRESETS

SAMPLE_RATE_HZ = 48_000
FRAMES_PER_S = 25
FRAME_SAMPLES = 1_920  # 40 ms
VELOCITY_GAIN = (0.55, 0.75, 1.0)  # -5.2, -2.5 and 0 dB
VELOCITY_GLINT = (0.4, 0.7, 1.0)  # soft notes are dull

TABLE_SAMPLES = 16_384  # the nearest entry is then right to about -75 dB
TABLE_MASK = TABLE_SAMPLES - 1
HIGHEST_HZ = 11_000.0
HIGHEST_HARMONIC = 80
FORMANT_WIDTH = 0.22  # octaves, times sqrt 2
VIBRATO_HZ = 6.25  # 4 frames
VIBRATO_AFTER_S = 0.24
HELD_FRAMES = (25, 50, 100, 200)  # notes are rendered and kept in these lengths, then shortened
CACHED_NOTES = 400  # about 200 MB


def note(name: str, pitch: int, velocity: int, frames: int) -> np.ndarray:
    """A note with its release.

    Args:
      name: A preset.
      pitch: MIDI pitch; 69 is 440 Hz.
      velocity: 0, 1 or 2.
      frames: How long it is held, at least 1.

    Returns:
      float32 [samples, 2].
    """
    preset = PRESETS[name]
    held = frames * FRAME_SAMPLES
    fading = round(preset.release_s * SAMPLE_RATE_HZ)
    # The release is a few time constants long, and must have its place in what is rendered.
    needed = frames + -(-fading // FRAME_SAMPLES)
    longest = next((length for length in HELD_FRAMES if length >= needed), needed)
    sound = _sustained(name, pitch, velocity, longest)[: held + fading].copy()
    sound[held:] *= _release(fading)[:, None]
    return sound


@functools.lru_cache(maxsize=64)
def _release(samples: int) -> np.ndarray:
    x = np.linspace(0.0, 1.0, samples, dtype=np.float32)
    return np.exp(-4.0 * x) * (1.0 - x)


@functools.lru_cache(maxsize=CACHED_NOTES)
def _sustained(name: str, pitch: int, velocity: int, frames: int) -> np.ndarray:
    """float32 [frames * 1920, 2], held throughout."""
    preset = PRESETS[name]
    seconds = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE_HZ
    level = _level(preset, seconds) * np.float32(VELOCITY_GAIN[velocity] * preset.gain)
    glint = preset.held_bright + (1 - preset.held_bright) * np.exp(-seconds / preset.glint_s)
    glint = (glint * VELOCITY_GLINT[velocity]).astype(np.float32)
    hz = frequency(pitch)
    cycles = hz * seconds + _vibrato(preset, hz, seconds)
    at = (cycles * TABLE_SAMPLES).astype(np.int64) & TABLE_MASK
    # Constant power across the stereo field.
    angle = (preset.pan + 1) * np.pi / 4
    gains = (np.cos(angle) * np.sqrt(2), np.sin(angle) * np.sqrt(2))
    sound = np.empty((len(seconds), 2), np.float32)
    wave = np.zeros(0, np.float32)
    for channel, width in enumerate((0.0, preset.width)):
        if channel == 0 or width:
            wave = _table(preset.soft, pitch, width)[at]
            wave += glint * (_table(preset.bright, pitch, width)[at] - wave)
            wave *= level
        sound[:, channel] = wave * np.float32(gains[channel])
    sound.setflags(write=False)
    return sound


def frequency(pitch: int) -> float:
    """Hz, snapped so that a held note's waveform repeats after 8, 16, 32 or 64 whole frames.

    It is at most 10 cents off, and a codec meets each note in few phases.
    """
    exact = 440.0 * 2.0 ** ((pitch - 69) / 12)
    repeats_frames = 8 << sum(pitch < c for c in (60, 48, 36))
    grid = FRAMES_PER_S / repeats_frames
    return round(exact / grid) * grid


def _level(preset: Preset, seconds: np.ndarray) -> np.ndarray:
    rise = np.minimum(seconds / preset.attack_s, 1.0)
    rise = rise * rise * (3 - 2 * rise)
    fall = preset.sustain + (1 - preset.sustain) * np.exp(-seconds / preset.decay_s)
    return (rise * fall).astype(np.float32)


def _vibrato(preset: Preset, hz: float, seconds: np.ndarray) -> np.ndarray | float:
    """Cycles ahead of a steady tone; starts at the onset's own time, so always the same."""
    if not preset.vibrato_cents:
        return 0.0
    depth_hz = hz * (2.0 ** (preset.vibrato_cents / 1200) - 1)
    swell = np.clip((seconds - VIBRATO_AFTER_S) / 0.5, 0.0, 1.0)
    turn = 2 * np.pi * VIBRATO_HZ
    return swell * depth_hz / turn * (1 - np.cos(turn * (seconds - VIBRATO_AFTER_S)))


@functools.lru_cache(maxsize=2_048)
def _table(spectrum: Spectrum, pitch: int, width: float) -> np.ndarray:
    """One cycle, float32 [TABLE_SAMPLES], of RMS 1, without anything above HIGHEST_HZ."""
    hz = frequency(pitch)
    count = int(min(HIGHEST_HARMONIC, HIGHEST_HZ // hz))
    k = np.arange(1, count + 1)
    amplitudes = np.zeros(count)
    if not spectrum.only_extra:
        cutoff = spectrum.cutoff_hz * (hz / 261.6) ** spectrum.follow
        amplitudes = k**-spectrum.tilt / (1 + (k * hz / cutoff) ** 2)
        amplitudes[1::2] *= spectrum.even
        if spectrum.formants_hz:
            octaves = np.log2(k[:, None] * hz / np.array(spectrum.formants_hz))
            peaks = np.exp(-((octaves / FORMANT_WIDTH) ** 2)) * np.array([1.0, 0.7, 0.35])
            amplitudes *= 0.12 + peaks.sum(axis=1)
    for harmonic, amplitude in spectrum.extra:
        if harmonic <= count:
            amplitudes[harmonic - 1] += amplitude
    coefficients = np.zeros(TABLE_SAMPLES // 2 + 1, complex)
    # Sines, so that a note starts at zero; the other channel's drift apart above the fundamental.
    phases = width * np.pi / 2 * (1 - 1 / k) * np.sin(5 * k)
    coefficients[1 : count + 1] = -1j * amplitudes * np.exp(1j * phases)
    cycle = np.fft.irfft(coefficients)
    return (cycle / np.sqrt(np.mean(cycle**2))).astype(np.float32)
