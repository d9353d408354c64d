"""``python -m tools.demo_model.figures --url http://localhost:3000``: what the demo's music does.

It asks a running server as any client would, measures what comes back (:mod:`measures`), and
prints the table of docs/demo-model.md. The server has to have no limits:
``RATE_LIMIT_PER_MINUTE=0 RATE_LIMIT_PER_HOUR=0 make serve``.

Invariant: the same server, seeds and seconds give the same figures.
"""

from __future__ import annotations

import argparse
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

SEEDS = 20
AT_ONCE = 8
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
        heard = self._live(prompt, lambda seed: {"notes": [pitches[seed]], "drums": False})
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
    print("\n| Weights of bright lead, deep bass | Power below 200 Hz |\n|---|---|")
    for weights in ((3, 1), (1, 1), (1, 3)):
        pieces = listener.blend(("bright lead", "deep bass"), weights)
        print(f"| {weights[0]} : {weights[1]} | {_spread(each(below_200_hz, pieces))} |")


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
