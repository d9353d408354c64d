"""What the style model learns from: pieces of our own music beside captions of them.

``python -m tools.demo_model.style.pairs --pieces N`` composes N pieces, two clips of each, and
keeps their summaries and styles in ``.cache/demo_model/pairs.npz``; it goes on where
an earlier run stopped.

Invariant: piece i depends on i alone; a piece with i % HELD_OUT == 0 is never trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soxr

from tools.demo_model import CACHE
from tools.demo_model.music.captions import PRESET_WORDS, caption, described
from tools.demo_model.music.piece import compose
from tools.demo_model.music.styles import Style
from tools.demo_model.style import spectrum

PATH = CACHE / "pairs.npz"
FIRST_SEED = 5_000_000  # far from the seeds that the language model's pieces have
HELD_OUT = 12
FRAMES = 350  # 14 s, so that two clips of 10 s are not the same
CLIPS = 2
CAPTIONS = 8
ABSENT_SHARE = 0.15  # of captions tell an instrument that does not play
LARGEST_GAIN_DB = 4.0
SHORT_SHARE = 0.12  # of the second clips: an upload is often shorter than 10 s
SAVE_EVERY_S = 30


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Of N pieces.

    Attributes:
      summaries: float32 [N, CLIPS, 416]; the first clip is as composed, the second one has
        another level, starts anywhere and is sometimes short.
      captions: str [N, CAPTIONS].
      traits: What the latents must tell of each piece's style, [N].
    """

    summaries: np.ndarray
    captions: np.ndarray
    traits: Sequence[Mapping[str, object]]

    @classmethod
    def load(cls, path: Path = PATH) -> Pairs:
        """Reads the cached summaries and writes captions of their styles."""
        with np.load(path) as stored:
            summaries, written = stored["summaries"], stored["styles"]
        styles = [_style(text) for text in written]
        captions = []
        for index, style in enumerate(styles):
            rng = np.random.default_rng(FIRST_SEED + index)
            captions.append([_caption(style, rng) for _ in range(CAPTIONS)])
        return cls(summaries, np.array(captions), [traits(style) for style in styles])

    @property
    def held_out(self) -> np.ndarray:
        """bool [N]."""
        return np.arange(len(self.summaries)) % HELD_OUT == 0


def one(index: int) -> tuple[np.ndarray, str]:
    """Piece ``index``: summaries float32 [CLIPS, 416] and its style as JSON."""
    rng, seed = np.random.RandomState(FIRST_SEED + index), FIRST_SEED + index
    # Every other style is one that a word stands for, each word as often as another.
    style = described(np.random.default_rng(seed))[1] if index % 2 else None
    piece = compose(seed, FRAMES, style)
    mono = piece.samples.mean(axis=1, dtype=np.float32)
    at_16k = soxr.resample(mono, 48_000, spectrum.SAMPLE_RATE_HZ, quality="HQ")
    starts = rng.randint(0, len(at_16k) - spectrum.CLIP_SAMPLES + 1, size=CLIPS)
    clips = [at_16k[at : at + spectrum.CLIP_SAMPLES] for at in starts]
    gain = 10 ** (rng.uniform(-LARGEST_GAIN_DB, LARGEST_GAIN_DB) / 20)
    clips[1] = clips[1] * np.float32(gain)
    if rng.uniform() < SHORT_SHARE:
        clips[1][int(rng.uniform(0.25, 0.9) * spectrum.CLIP_SAMPLES) :] = 0
    summaries = np.stack([spectrum.summary(spectrum.log_bands(clip)) for clip in clips])
    return summaries.astype(np.float32), json.dumps(dataclasses.asdict(piece.style))


def _caption(style: Style, rng: np.random.Generator) -> str:
    """One of the music's captions; some also tell an instrument that does not play."""
    text = caption(style, rng)
    if rng.random() > ABSENT_SHARE:
        return text
    heard = {getattr(style, part) for part in style.parts} | {style.kit}
    absent = {**PRESET_WORDS, "drums": ("drums",)}
    if style.kit:
        del absent["drums"]
    others = [phrases[0] for preset, phrases in absent.items() if preset not in heard]
    named = others[int(rng.integers(len(others)))]
    return f"{text}{', no' if rng.random() < 0.7 else ' without'} {named}"


def traits(style: Style) -> Mapping[str, object]:
    """Name to value: all of a style but the key and the chords, which nobody calls its style."""
    told = dataclasses.asdict(style)
    for name in ("key", "progression"):
        told.pop(name)
    return told | {"brightness": round(style.brightness, 1), "parts": len(style.parts)}


def _style(text: str) -> Style:
    stored = json.loads(text)
    return Style(**stored | {"progression": tuple(stored["progression"])})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=3_097)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    rows: list[tuple[np.ndarray, str]] = []
    if PATH.exists():
        with np.load(PATH) as stored:
            rows = list(zip(stored["summaries"], stored["styles"].tolist(), strict=True))
    started = saved = time.monotonic()
    with ProcessPoolExecutor(options.workers) as pool:
        for row in pool.map(one, range(len(rows), options.pieces), chunksize=8):
            rows.append(row)
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = time.monotonic()
                _save(rows)
                print(f"{len(rows)} pieces after {saved - started:.0f} s", flush=True)
    _save(rows)


def _save(rows: Sequence[tuple[np.ndarray, str]]) -> None:
    PATH.parent.mkdir(parents=True, exist_ok=True)
    summaries, styles = zip(*rows, strict=True)
    partial = PATH.with_suffix(".partial.npz")
    np.savez(partial, summaries=np.stack(summaries), styles=np.array(styles))
    partial.replace(PATH)


if __name__ == "__main__":
    main()
