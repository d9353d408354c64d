"""``python -m tools.demo_model.figures --url http://localhost:3000``: what the demo's music does.

It asks a running server as any client would, measures what comes back (:mod:`measures`), and
prints the figures of docs/demo-model.md. The server has to have no limits, and room:
``RATE_LIMIT_PER_MINUTE=0``, ``RATE_LIMIT_PER_HOUR=0``, ``MAX_CONCURRENT_PER_CLIENT=0`` and
``MAX_STREAMS=20`` before ``make serve``.

Invariant: the same server, seeds and seconds give the same figures.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import requests
import soundfile
from websockets.sync.client import connect

from tools.demo_model import measures
from tools.demo_model.music.piece import compose
from tools.demo_model.music.styles import StyleHint, draw

SEEDS = 20
AT_ONCE = 20
TIMEOUT_S = 300
SKIPPED_S = 1.0  # of each piece: a stream begins in silence
LOWEST_HELD = 57  # A3, and a semitone more for each seed
LIVE = {"type": "start", "chunk_ms": 400, "lead_ms": 10_000}

Samples = np.ndarray  # float32 [N, 2] at 48 kHz
Measure = Callable[[Samples], float]


@dataclass(frozen=True)
class Listener:
    """Who asks a server for the same thing with many seeds.

    Attributes:
      url: The server's.
      seconds: Of each piece, without what is skipped.
      seeds: How many pieces; 0 and on.
    """

    url: str
    seconds: float = 6.0
    seeds: int = SEEDS

    def text(self, prompt: str, **fields: object) -> list[Samples]:
        return self._each("/generate/text", {"prompt": prompt, **fields})

    def blend(self, prompts: Sequence[str], weights: Sequence[float]) -> list[Samples]:
        return self._each(
            "/generate/blend", {"text_prompts": list(prompts), "text_weights": list(weights)}
        )

    def audio(self, reference: Samples, seed: int) -> Samples:
        """One piece in the style of a sound."""
        fields = {"duration": self.seconds + SKIPPED_S, "seed": seed, "format": "wav"}
        answer = requests.post(
            f"{self.url}/generate/audio", data=fields, files=_file(reference), timeout=TIMEOUT_S
        )
        answer.raise_for_status()
        return _samples(answer.content)

    def embedding(self, sound: Samples) -> np.ndarray:
        """float32 [768] of a sound."""
        answer = requests.post(f"{self.url}/embed/audio", files=_file(sound), timeout=TIMEOUT_S)
        answer.raise_for_status()
        return np.asarray(answer.json()["embedding"], np.float32)

    def live(self, prompt: str, **fields: object) -> list[Samples]:
        """What /ws/jam plays with fields of its ``start``, as ``drums=True``."""
        return self._live(prompt, lambda seed: fields)

    def held(self, prompt: str) -> list[tuple[int, Samples]]:
        """MIDI pitches, and what /ws/jam plays while each is held and nothing else, no drums."""
        pitches = [LOWEST_HELD + seed for seed in range(self.seeds)]
        alone = {"notes_mode": "strict", "drums": "off"}
        heard = self._live(prompt, lambda seed: {**alone, "notes": [pitches[seed]]})
        return list(zip(pitches, heard, strict=True))

    def _live(self, prompt: str, fields: Callable[[int], dict[str, object]]) -> list[Samples]:
        address = self.url.replace("http", "ws", 1) + "/ws/jam"
        wanted = round((self.seconds + SKIPPED_S) * measures.SAMPLE_RATE_HZ)

        def one(seed: int) -> Samples:
            start = {**LIVE, "prompts": [{"text": prompt}], "seed": seed, **fields(seed)}
            heard = b""
            with connect(address, max_size=None) as jam:
                jam.send(json.dumps(start))
                while len(heard) < 4 * wanted:
                    message = jam.recv(timeout=TIMEOUT_S)
                    heard += message if isinstance(message, bytes) else b""
            pcm = np.frombuffer(heard, "<i2").reshape(-1, 2)[:wanted]
            return _skipped((pcm / 32_768).astype(np.float32))

        return self._at_once(one)

    def _each(self, route: str, fields: dict[str, object]) -> list[Samples]:
        def one(seed: int) -> Samples:
            body = {"duration": self.seconds + SKIPPED_S, "seed": seed, "format": "wav", **fields}
            answer = requests.post(f"{self.url}{route}", json=body, timeout=TIMEOUT_S)
            answer.raise_for_status()
            return _samples(answer.content)

        return self._at_once(one)

    def _at_once(self, one: Callable[[int], Samples]) -> list[Samples]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(self.seeds)))


def below_200_hz(sound: Samples) -> float:
    """The share of the power below 200 Hz."""
    return measures.share_below(sound, 200.0)


def each(measure: Measure, pieces: Sequence[Samples]) -> np.ndarray:
    """float [pieces]."""
    return np.array([measure(piece) for piece in pieces])


def share_of_pitch(held: tuple[int, Samples]) -> float:
    """The share of frames whose strongest pitch class is the held one's; silence has none."""
    pitch, sound = held
    return float(np.mean(measures.pitch_classes(sound) == pitch % 12))


def loudness_drift_db(sound: Samples) -> float:
    """How far the loudest or quietest 10 s are from the first 5 s, dB."""
    first = measures.loudness_dbfs(sound[: 5 * measures.SAMPLE_RATE_HZ], 5.0)[0]
    return float(np.max(np.abs(measures.loudness_dbfs(sound, 10.0) - first)))


@functools.cache
def references() -> tuple[Samples, ...]:
    """Pieces of :data:`REFERENCES`, of two whole clips as an audio encoder takes them."""
    rng = np.random.default_rng(7)
    return tuple(
        compose(9_000_000 + number, REFERENCE_FRAMES, draw(rng, StyleHint((family,)))).samples
        for number, family in enumerate(REFERENCES)
    )


def likeness(url: str) -> np.ndarray:
    """How near what is made from a reference is to each of them, in the audio encoder's space.

    Returns:
      float [REFERENCE_SEEDS, 5, 5]: cosines, of what was made from one (row) to one (column).
    """
    listener = Listener(url, seconds=10.0)
    ears = np.stack([listener.embedding(reference) for reference in references()])
    made = [
        listener.embedding(listener.audio(reference, seed))
        for seed in range(REFERENCE_SEEDS)
        for reference in references()
    ]
    unit_ears, unit_made = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ears, np.stack(made))
    )
    cosines: np.ndarray = unit_made @ unit_ears.T
    return cosines.reshape(REFERENCE_SEEDS, len(REFERENCES), len(REFERENCES))


def _file(sound: Samples) -> dict[str, tuple[str, bytes]]:
    file = io.BytesIO()
    soundfile.write(file, sound, measures.SAMPLE_RATE_HZ, format="WAV")
    return {"audio_file": ("reference.wav", file.getvalue())}


def _samples(data: bytes) -> Samples:
    sound, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return _skipped(sound)


def _skipped(sound: Samples) -> Samples:
    return sound[round(SKIPPED_S * measures.SAMPLE_RATE_HZ) :]


PROMPTS = ("drums only", "soft ambient pad", "deep bass", "bright lead", "warm pad")
HELD_PROMPTS = ("bright lead", "warm pad")
BLENDED, BLENDS = ("bright lead", "deep bass"), ((3, 1), (1, 1), (1, 3))
MINUTES = ("funk", "techno", "warm pad", "ambient")
REFERENCES = ("techno", "pads only", "piano solo", "drums only", "funk")
REFERENCE_FRAMES, REFERENCE_SEEDS = 500, 4


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", default="http://localhost:3000")
    listener = Listener(options.parse_args().url)
    print("| Prompt | Onsets/s | Tonal share | Power below 200 Hz | Centroid, Hz | RMS, dBFS |")
    print("|---|---|---|---|---|---|")
    for prompt in PROMPTS:
        pieces = listener.text(prompt)
        told = (
            each(measures.onsets_per_s, pieces),
            each(measures.tonal_share, pieces),
            each(below_200_hz, pieces),
            each(measures.centroid_hz, pieces),
            each(lambda sound: measures.loudness_dbfs(sound, 6.0)[0], pieces),
        )
        print(f"| {prompt} | " + " | ".join(_spread(values) for values in told) + " |")
    for on in (True, False):
        pieces = listener.live("techno", drums=on)
        told_drums = _spread(each(measures.onsets_per_s, pieces))
        print(f"\ntechno with drums {'on' if on else 'off'}: {told_drums} onsets/s")
    for prompt in HELD_PROMPTS:
        told_pitch = _spread(np.array([share_of_pitch(held) for held in listener.held(prompt)]))
        print(f"\na note held in {prompt}: of its pitch class {told_pitch} of the frames")
    print(f"\n| {' : '.join(BLENDED)} | Power below 200 Hz | Centroid, Hz |")
    print("|---|---|---|")
    for weights in BLENDS:
        pieces = listener.blend(BLENDED, weights)
        low, centre = each(below_200_hz, pieces), each(measures.centroid_hz, pieces)
        print(f"| {weights[0]} : {weights[1]} | {_spread(low)} | {_spread(centre)} |")
    cosines = likeness(listener.url)
    own = np.mean(np.argmax(cosines, axis=2) == np.arange(len(REFERENCES)), axis=0)
    for family, share in zip(REFERENCES, own, strict=True):
        print(f"\nfrom a reference of {family}: nearest to it in {share:.0%}")
    minute = Listener(listener.url, seconds=60.0)
    for prompt in MINUTES:
        drifts = each(loudness_drift_db, minute.text(prompt))
        print(
            f"\na minute of {prompt}: {np.sum(drifts < 6)} of {len(drifts)} within 6 dB, "
            f"the farthest {drifts.max():.0f} dB off"
        )


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
