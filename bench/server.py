"""Claims: serving over HTTP costs next to nothing, and a long generation blocks no other request.

    python -m bench.server

1. A number of concurrent REST requests for WAV to a real server, against the same number of
   streams in the engine alone in this process: frames per second of all together. The two take
   turns, so that changes of the machine's speed affect both.
2. While a 60 s generation runs, /health is asked 200 times: p50, p95, p99 and the longest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests

from bench.engine import engine_row
from magenta_bento.audio.formats import FRAMES_PER_SECOND
from magenta_bento.config import Settings
from magenta_bento.model.loader import load_model
from magenta_bento.weights.catalog import locate
from tests.serving import Server, serving

HEALTH_CALLS = 200


def served_frames_per_s(server: Server, streams: int, seconds: float) -> float:
    """Frames of all answers over the time until the last one has arrived."""

    def ask(seed: int, duration: float) -> int:
        answer = requests.post(
            f"{server.url}/generate/text",
            json={"prompt": "disco funk", "duration": duration, "seed": seed, "format": "wav"},
            timeout=600,
        )
        answer.raise_for_status()
        return len(answer.content)

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(lambda seed: ask(seed, 0.2), range(streams)))
        started = time.perf_counter()
        list(pool.map(lambda seed: ask(seed, seconds), range(streams)))
        took_s = time.perf_counter() - started
    return streams * (seconds * FRAMES_PER_SECOND + 1) / took_s


def health_times_ms(server: Server) -> list[float]:
    """Times of /health during a 60 s generation, milliseconds."""
    times = []
    with ThreadPoolExecutor(1) as pool, requests.Session() as session:
        body = {"prompt": "a long drone", "duration": 60, "format": "mp3"}
        work = [
            pool.submit(requests.post, f"{server.url}/generate/text", json=body, timeout=600)
            for _ in range(8)
        ]
        while len(times) < HEALTH_CALLS and not work[-1].done():
            started = time.perf_counter()
            session.get(f"{server.url}/health", timeout=60).raise_for_status()
            times.append(1e3 * (time.perf_counter() - started))
            time.sleep(0.02)
        for job in work:
            job.result().raise_for_status()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each piece")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    settings = Settings(max_streams=options.streams)
    model, _ = load_model(settings, locate("demo", settings))
    frames = int(options.seconds * FRAMES_PER_SECOND)
    bare, served = [], []
    with TemporaryDirectory() as folder:
        limits = {"MAX_STREAMS": str(options.streams)}
        with serving(Path(folder), **limits) as server:
            for _ in range(options.rounds):
                bare.append(engine_row(model, options.streams, frames).frames_per_s)
                served.append(served_frames_per_s(server, options.streams, options.seconds))
            times = health_times_ms(server)

    print(f"{date.today()}, demo, {options.streams} streams of {options.seconds:g} s, wav")
    print("| | frames/s | RTF, all |\n|---|---|---|")
    for name, rates in (("bare engine", bare), ("over HTTP", served)):
        rate = statistics.median(rates)
        print(f"| {name} | {rate:.0f} | {rate / FRAMES_PER_SECOND:.1f} |")
    ratios = sorted(s / b for s, b in zip(served, bare, strict=True))
    print(f"\nserved / bare: {', '.join(f'{r:.2f}' for r in ratios)}")
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    print(
        f"/health during generations, {len(times)} calls: p50 {p50:.1f} ms, p95 {p95:.1f} ms,"
        f" p99 {p99:.1f} ms, longest {max(times):.1f} ms"
    )


if __name__ == "__main__":
    main()
