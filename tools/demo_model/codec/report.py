"""``python -m tools.demo_model.codec.report``: how well held-out pieces survive the codec.

Prints, per piece, the SI-SDR, the log-spectral distance and how many codes each level uses;
writes spectrograms of the first ones, music above and decoded below, beside ``codec.npz``.

Invariant: measures only pieces that :mod:`train` never trained on.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tools.demo_model import CACHE
from tools.demo_model.codec import material, tokens
from tools.demo_model.codec.train import FIRST_SEED, PIECES

WINDOW, HOP = 2_048, 512
LOWEST_DB, HIGHEST_DB = -110.0, -30.0  # of the pictures
FLOOR_DB = -80.0  # below full scale: quieter differences don't count
PICTURE_BINS = 512  # up to 12 kHz
PICTURES = 4


def si_sdr(heard: np.ndarray, wanted: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    scaled = np.vdot(heard, wanted) / np.vdot(wanted, wanted) * wanted
    return float(10 * np.log10(np.sum(scaled**2) / np.sum((heard - scaled) ** 2)))


def spectrogram_db(samples: np.ndarray) -> np.ndarray:
    """Float32 [samples, 2] to the mono spectrogram [frames, 1025] in dB below full scale."""
    mono = samples.mean(axis=1)
    starts = np.arange(0, len(mono) - WINDOW + 1, HOP)
    windows = mono[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2 / (WINDOW / 4) ** 2
    return 10 * np.log10(power + 1e-12)


def log_spectral_distance(heard: np.ndarray, wanted: np.ndarray) -> float:
    """RMS over bins, mean over frames, in dB; both limited to FLOOR_DB from below."""
    difference = np.maximum(spectrogram_db(heard), FLOOR_DB)
    difference -= np.maximum(spectrogram_db(wanted), FLOOR_DB)
    return float(np.mean(np.sqrt(np.mean(difference**2, axis=1))))


def picture(*sounds: np.ndarray) -> Image.Image:
    """Spectrograms, one above the other, low frequencies at the bottom."""
    rows = []
    for sound in sounds:
        level = (spectrogram_db(sound) - LOWEST_DB) / (HIGHEST_DB - LOWEST_DB)
        rows.append(np.flipud(np.clip(level, 0, 1).T[:PICTURE_BINS]))
        rows.append(np.ones((6, rows[-1].shape[1])))
    return Image.fromarray((255 * np.concatenate(rows)).astype(np.uint8))


def main() -> None:
    codec = tokens.load()
    pieces = material.pieces(PIECES, FIRST_SEED)[: material.HELD_OUT]
    used = []
    for row, piece in enumerate(np.float32(pieces)):
        codes = codec.encode(piece)
        heard = codec.decode(codes)
        linear = codec.quantiser.samples(codec.quantiser.approximation(codes))
        used.append(codes)
        print(
            f"piece {row:2d}  SI-SDR {si_sdr(heard, piece):5.1f} dB"
            f" (linear decoder {si_sdr(linear, piece):5.1f})"
            f"  log-spectral distance {log_spectral_distance(heard, piece):4.1f} dB"
            f" ({log_spectral_distance(linear, piece):4.1f})"
            f"  level {10 * np.log10(np.mean(heard**2) / np.mean(piece**2)):+.1f} dB"
        )
        if row < PICTURES:
            picture(piece, heard).save(CACHE / f"codec_{row}.png")
    every = np.concatenate(used)
    counts = [len(np.unique(every[:, level])) for level in range(every.shape[1])]
    print(f"codes used in {len(every)} frames, by level:", *counts)


if __name__ == "__main__":
    main()
