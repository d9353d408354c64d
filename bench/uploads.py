"""Claims: decoding an upload costs milliseconds, and no damaged file harms the server.

    python -m bench.uploads                   # what an upload of a second costs, in each format
    python -m bench.uploads --music 600       # 600 seconds of music, in each format
    python -m bench.uploads --files 50000     # 50,000 damaged files, sent to a real server

1. A second of sound is decoded in each format, again and again: wall and processor time.
2. Long pieces must decode within the bounds that cut off what is hostile.
3. Damaged files (``tests/upload_mutations.py``) go to /embed/audio and /prompts/audio, a few at
   a time. Every answer must be a 200 or a 4xx in the one error shape.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import httpx
import numpy as np
import psutil

from magenta_bento.audio.decode import DecodeLimits, Decoder
from tests.serving import Server, serving
from tests.upload_mutations import encoded, make_seeds, mutated

ROUTES = ("/embed/audio", "/prompts/audio")
CLIENTS = 3  # one more than the decoders that run at once, so that one always waits
TIMEOUT_S = 60.0
SAMPLE_EVERY_FILES = 100  # files
PRINT_EVERY_FILES = 5_000  # files
WORKER = "_bentoml_impl.worker"
MUSIC = ("mp3", "wav", "flac", "vorbis", "opus", "m4a", "alac", "adts", "ogg-flac")
LIMITS = DecodeLimits(60)


@dataclass(frozen=True)
class Cost:
    """What one upload took, seconds."""

    wall_s: float
    cpu_s: float


def cost(decoder: Decoder, file: BinaryIO, limits: DecodeLimits) -> Cost:
    """Of one upload, alone."""
    wall_s, cpu_s = time.perf_counter(), _children_s()
    decoder.decode(file, limits)
    return Cost(time.perf_counter() - wall_s, _children_s() - cpu_s)


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@dataclass
class Answers:
    """The answers to damaged files.

    Attributes:
      statuses: How many answers had each status.
      types: How many answers had each type of error.
      took_s: How long each answer took, with the number of its file.
      wrong: A sentence for each answer that is neither a 200 nor a well-formed 4xx.
      seconds: From the first file to the last answer.
      resident_bytes: A sample every ``SAMPLE_EVERY_FILES`` files: how many were answered, and the
        server's resident memory.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    took_s: list[tuple[float, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    resident_bytes: list[tuple[int, int]] = field(default_factory=list)

    def growth_bytes(self) -> float:
        """Slope of the line through the second half of the memory, bytes a file."""
        half = np.array(self.resident_bytes[len(self.resident_bytes) // 2 :], np.float64)
        return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


def send_damaged_files(server: Server, seeds: list[bytes], numbers: Iterable[int]) -> Answers:
    """Sends the files with these numbers, and checks the answers."""
    return asyncio.run(_send_damaged_files(server, seeds, numbers))


async def _send_damaged_files(
    server: Server, seeds: list[bytes], numbers: Iterable[int]
) -> Answers:
    answers = Answers()
    remaining = iter(numbers)
    started = time.perf_counter()

    async def send() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
            for number in remaining:
                files = {"audio_file": (f"{number}.mp3", mutated(number, seeds))}
                sent = time.perf_counter()
                answer = await client.post(ROUTES[number % len(ROUTES)], files=files)
                answers.took_s.append((time.perf_counter() - sent, number))
                _check(answers, number, answer)
                done = len(answers.took_s)
                if done % SAMPLE_EVERY_FILES == 0:
                    answers.resident_bytes.append((done, resident_bytes(server)))
                if done % PRINT_EVERY_FILES == 0:
                    print(f"{done} files: {dict(answers.statuses)}", file=sys.stderr, flush=True)

    await asyncio.gather(*(send() for _ in range(CLIENTS)))
    answers.seconds = time.perf_counter() - started
    return answers


def _check(answers: Answers, number: int, answer: httpx.Response) -> None:
    answers.statuses[answer.status_code] += 1
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code == 200:
        right = isinstance(body, dict) and ("audio_id" in body or len(body["embedding"]) == 768)
    else:
        right = 400 <= answer.status_code < 500 and isinstance(body, dict)
        right = right and set(body) == {"error", "type", "detail"}
        answers.types[body["type"] if right else "?"] += 1
    if not right:
        answers.wrong.append(f"file {number}: {answer.status_code} {answer.text[:200]}")


def processes(server: Server) -> list[psutil.Process]:
    """All processes of a server, zombies included."""
    return psutil.Process(server.process.pid).children(recursive=True)


def resident_bytes(server: Server) -> int:
    """Of the process that serves, a child of the one that watches."""
    children = psutil.Process(server.process.pid).children()
    return (
        next(child for child in children if WORKER in " ".join(child.cmdline())).memory_info().rss
    )


def temporary_files(server: Server) -> list[Path]:
    """The server's temporary files."""
    return [path for path in server.temp.rglob("*") if path.is_file()]


def report_costs(rounds: int) -> None:
    print(f"{date.today()}, 1 s of sound, {rounds} rounds; median")
    print("| format | wall, ms | processor, ms |\n|---|---|---|")
    with TemporaryDirectory() as folder, closing(Decoder()) as decoder:
        for name in MUSIC:
            path = encoded(Path(folder), name, "sine=frequency=440:duration=1")
            with path.open("rb") as file:
                found = [cost(decoder, file, LIMITS) for _ in range(rounds)]
            wall_ms = 1e3 * statistics.median(each.wall_s for each in found)
            cpu_ms = 1e3 * statistics.median(each.cpu_s for each in found)
            print(f"| {name} | {wall_ms:.0f} | {cpu_ms:.0f} |")


def report_music(seconds: float) -> None:
    limits = DecodeLimits.for_seconds(seconds + 1)  # encoders pad
    # Noise that swells: as costly for a decoder as music is, or more.
    source = f"anoisesrc=c=pink:a=0.3:r=48000:d={seconds},tremolo=f=2"
    print(
        f"{date.today()}, {seconds:g} s of stereo at 48 kHz; bound: {limits.cpu_s} s of processor"
    )
    print("| format | MB | wall, s | processor, s |\n|---|---|---|---|")
    with TemporaryDirectory() as folder, closing(Decoder()) as decoder:
        for name in MUSIC:
            path = encoded(Path(folder), name, source)
            with path.open("rb") as file:
                found = cost(decoder, file, limits)
            megabytes = path.stat().st_size / 1e6
            print(f"| {name} | {megabytes:.0f} | {found.wall_s:.2f} | {found.cpu_s:.2f} |")
            path.unlink()


def report_damaged_files(files: int, first: int) -> None:
    with TemporaryDirectory() as folder, serving(Path(folder)) as server:
        (seeds_in := Path(folder) / "seeds").mkdir()
        before = {process.pid for process in processes(server)}
        answers = send_damaged_files(server, make_seeds(seeds_in), range(first, first + files))
        remaining = [process for process in processes(server) if process.pid not in before]
        took_s = np.array([took for took, _ in answers.took_s])
        slowest_s, slowest = max(answers.took_s)
        p50, p99 = np.percentile(took_s, (50, 99))
        growth = answers.growth_bytes()
        print(f"{date.today()}, files {first} to {first + files - 1}, {answers.seconds:.0f} s")
        print(f"answers: {dict(sorted(answers.statuses.items()))}, {dict(answers.types)}")
        print(
            f"time of an answer: mean {took_s.mean():.3f} s, p50 {p50:.3f} s, p99 {p99:.3f} s,"
            f" slowest {slowest_s:.2f} s (file {slowest})"
        )
        print(f"memory: {answers.resident_bytes[-1][1] >> 20} MiB, {growth:+.1f} bytes a file")
        print(f"left: {len(remaining)} processes, {len(temporary_files(server))} files")
        print(f"wrong: {len(answers.wrong)}", *answers.wrong[:20], sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, help="how many damaged files to send instead")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--music", type=float, help="how many seconds of music to decode instead")
    options = parser.parse_args()
    if options.files:
        report_damaged_files(options.files, options.first)
    elif options.music:
        report_music(options.music)
    else:
        report_costs(options.rounds)


if __name__ == "__main__":
    main()
