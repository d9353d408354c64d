"""Claim: one machine plays many live sessions, each with low latency and without a gap.

    python -m bench.live                      # 1, 2, 4, … sessions until some underrun
    python -m bench.live --sessions 1,8 --offline 16

Each session is a real /ws/jam connection to a real server. Playback is simulated from what
arrives: it starts with the first chunk, and an underrun is a chunk that arrives after the audio
before it was played. Control latency is the time from sending an update until the chunk arrives
that holds the frame which the acknowledgement names. ``--offline`` is the number of files that
the server generates at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import websockets

from magenta_bento.audio.formats import FRAME_SAMPLES, SAMPLE_RATE_HZ
from tests.serving import serving

SAMPLE_BYTES = 4
UPDATE_EVERY_S = 2.0


@dataclass
class ListenerResult:
    """What one listener measured.

    Attributes:
      first_audio_s: Seconds from the start message to the first chunk.
      gaps_s: Seconds from each chunk to the next.
      control_s: The control latency of each update, seconds.
      underruns: How many chunks arrived too late to be played in time.
    """

    first_audio_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    control_s: list[float] = field(default_factory=list)
    underruns: int = 0


async def listen(
    url: str, seconds: float, chunk_ms: int, lead_ms: int, seed: int
) -> ListenerResult:
    result = ListenerResult()
    async with websockets.connect(f"{url}/ws/jam", max_size=None) as socket:
        start = {"type": "start", "prompts": [{"text": "disco funk"}], "seed": seed}
        await socket.send(json.dumps({**start, "chunk_ms": chunk_ms, "lead_ms": lead_ms}))
        started = time.perf_counter()
        first = last = 0.0
        frames = 0
        update_sent_s: float | None = None
        changed_frame: int | None = None
        next_update = started + UPDATE_EVERY_S
        while time.perf_counter() - started < seconds:
            message = await socket.recv()
            now = time.perf_counter()
            if isinstance(message, str):
                parsed = json.loads(message)
                if parsed["type"] == "ack":
                    changed_frame = parsed["frame"]
                continue
            if not first:
                first = now
                result.first_audio_s = now - started
            elif now - first > frames * FRAME_SAMPLES / SAMPLE_RATE_HZ:
                result.underruns += 1
                first = now - frames * FRAME_SAMPLES / SAMPLE_RATE_HZ
            if last:
                result.gaps_s.append(now - last)
            last = now
            frames += len(message) // SAMPLE_BYTES // FRAME_SAMPLES
            if changed_frame is not None and update_sent_s is not None and frames > changed_frame:
                result.control_s.append(now - update_sent_s)
                update_sent_s = changed_frame = None
            if now > next_update and update_sent_s is None:
                next_update = now + UPDATE_EVERY_S
                update_sent_s = time.perf_counter()
                update = {"type": "update", "prompts": [{"text": f"style {frames}"}]}
                await socket.send(json.dumps(update))
    return result


async def generate_files(url: str, requests: int) -> None:
    async with httpx.AsyncClient(timeout=None) as client:

        async def generate() -> None:
            while True:
                body = {"prompt": "a long drone", "duration": 60, "format": "wav"}
                await client.post(f"{url}/generate/text", json=body)

        await asyncio.gather(*(generate() for _ in range(requests)))


async def measure(
    url: str, sessions: int, seconds: float, chunk_ms: int, lead_ms: int, offline: int
) -> list[ListenerResult]:
    busy = asyncio.create_task(generate_files(url, offline)) if offline else None
    if busy:
        await asyncio.sleep(2)
    socket_url = url.replace("http", "ws")
    results = await asyncio.gather(
        *(listen(socket_url, seconds, chunk_ms, lead_ms, seed) for seed in range(sessions))
    )
    if busy:
        busy.cancel()
    return list(results)


def row(
    sessions: int, offline: int, chunk_ms: int, lead_ms: int, results: list[ListenerResult]
) -> str:
    gaps_ms = np.array([1e3 * gap for r in results for gap in r.gaps_s]) - chunk_ms
    # The chunks of the first lead arrive at once; only those after them are paced.
    steady = gaps_ms[gaps_ms > -chunk_ms * 0.9]
    p50, p95, p99 = np.percentile(np.abs(steady), (50, 95, 99))
    first = max(r.first_audio_s for r in results)
    control = [c for r in results for c in r.control_s]
    latency = f"{np.median(control):.3f} / {max(control):.3f}" if control else "none"
    underruns = sum(r.underruns for r in results)
    return (
        f"| {sessions} | {offline} | {chunk_ms} | {lead_ms} | {first:.3f} | {latency} |"
        f" {p50:.1f} / {p95:.1f} / {p99:.1f} | {underruns} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", default="1,2,4,8,16,32")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each row")
    parser.add_argument("--chunk-ms", type=int, default=200)
    parser.add_argument("--lead-ms", type=int, default=2000)
    parser.add_argument("--offline", type=int, default=0)
    options = parser.parse_args()
    counts = [int(n) for n in options.sessions.split(",")]

    print(f"{date.today()}, demo model")
    heads = ["sessions", "offline", "chunk ms", "lead ms", "first audio s, slowest"]
    heads += ["control s, median / slowest", "jitter ms p50 / p95 / p99", "underruns"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    with TemporaryDirectory() as folder:
        most = max(counts) + options.offline
        with serving(Path(folder), MAX_STREAMS=str(most)) as server:
            for count, chunk, lead, offline in [
                (1, 40, 120, 0),
                *((n, options.chunk_ms, options.lead_ms, options.offline) for n in counts),
            ]:
                results = asyncio.run(
                    measure(server.url, count, options.seconds, chunk, lead, offline)
                )
                print(row(count, offline, chunk, lead, results), flush=True)
                if sum(r.underruns for r in results) > count:
                    break


if __name__ == "__main__":
    main()
