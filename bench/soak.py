"""Claim: whoever comes, leaves early or means harm, nothing of them stays in the server.

    python -m bench.soak --minutes 15

A crowd of clients visits a real server that asks for keys: honest ones, those who leave, and
those who do wrong (``bench.visitors``, ``bench.vandals``). Each visit's outcome is compared with
what is right for its kind. Before and after, once nothing is being served, what the server
holds is counted from outside: slots, open requests, threads, descriptors, processes, files. At
the second count two clients are still there who never read what they asked for.

The crowd comes for a while before the first count already, so that pools of threads are full.
Memory is a line through the worker's resident size over the second half of the time.
Meanwhile another process asks for /health. Exits with 1 if anything stayed or went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import platform
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import psutil
import websockets

from bench import vandals, visitors
from bench.visitors import LEFT, PATIENCE_S, PLAYED, Visit
from bench.vitals import Held, Seen, rested, samples, settled, watch
from tests.serving import Server, serving

VISITORS = 24
KEYS = [f"key-of-the-soak-number-{i}" for i in range(6)]
SETTINGS = {
    "MAX_STREAMS": "0",
    "ENABLE_AUTH": "true",
    "API_KEYS": ",".join(f"k{i}:{key}" for i, key in enumerate(KEYS)),
    # High, and not off: counting is a part of what may leak. A minute's log is soon full.
    "RATE_LIMIT_PER_MINUTE": "1000000",
    "RATE_LIMIT_AUDIO_SECONDS_PER_HOUR": "10000000",
    "MAX_CONCURRENT_PER_CLIENT": "16",
    "MAX_FILE_SIZE_MB": "4",
    "BODY_TIMEOUT_S": "3",
}
SETTLE_S = 15.0  # for idle threads and connections to be given up
MORE_THREADS = 8  # idle ones of a pool come and go
MORE_DESCRIPTORS = 4
MORE_BYTES = 30e6  # in the second half


@dataclass(frozen=True)
class Kind:
    """A kind of visit.

    Attributes:
      visit: The visit itself.
      weight: How often it is chosen, beside the others.
      right: What may come of it.
      at_once: How many come together.
    """

    visit: Callable[[Visit], Awaitable[str]]
    weight: int
    right: set[str]
    at_once: int = 1

    @property
    def name(self) -> str:
        together = f", {self.at_once} at once" if self.at_once > 1 else ""
        return self.visit.__name__.replace("_", " ") + together


_BUSY = {"429 too_many_at_once", "503 overloaded"}
_MUSIC = {"200", *_BUSY}
_LIVE = {PLAYED, "error overloaded", "closed 1013", *_BUSY}
_WRONG = {"400 invalid_input", "400 undecodable_audio", "404 not_found", "405 method_not_allowed"}
_WRONG |= {"413 payload_too_large", "415 unsupported_media_type"}
_NONSENSE = {"error invalid_input", "error undecodable_audio", "closed 1009"}
KINDS = [
    Kind(visitors.generate, 60, _MUSIC),
    Kind(visitors.generate, 1, _MUSIC, at_once=100),
    Kind(visitors.generate_from_audio, 24, _MUSIC),
    Kind(visitors.leave_generation, 45, {LEFT, *_MUSIC}),
    Kind(visitors.stream, 45, _MUSIC),
    Kind(visitors.leave_stream, 45, {LEFT, *_MUSIC}),
    Kind(visitors.upload, 24, _MUSIC),
    Kind(visitors.embed_text, 15, _MUSIC),
    Kind(visitors.look, 15, {"200", "307", "404 not_found"}),
    Kind(visitors.jam, 45, _LIVE),
    Kind(visitors.lyria, 30, _LIVE),
    Kind(vandals.upload_damaged, 30, {"400 invalid_input", "400 undecodable_audio", *_MUSIC}),
    Kind(vandals.ask_wrongly, 60, _WRONG | _BUSY | {vandals.RESET}),
    Kind(vandals.talk_nonsense, 24, _NONSENSE | _BUSY),
    Kind(vandals.send_too_much, 15, {"413 payload_too_large", vandals.RESET, *_BUSY}),
    Kind(vandals.send_slowly, 15, {"408 slow_body", *_BUSY}),
    Kind(vandals.come_without_key, 5, {"401 unauthorized"}, at_once=100),
    Kind(vandals.break_off, 45, {LEFT}),
    Kind(vandals.read_nothing, 3, {vandals.CUT_OFF, *_BUSY}),
    Kind(vandals.listen_to_nothing, 3, {LEFT, *_BUSY}),
]

Outcomes = dict[str, Counter[str]]  # of each kind


async def crowd(url: str, seconds: float, seed: str) -> Outcomes:
    """Lets the crowd come for so long; returns once the last visit has ended."""
    outcomes: Outcomes = {kind.name: Counter() for kind in KINDS}
    until = time.monotonic() + seconds
    weights = [kind.weight for kind in KINDS]

    async def visitor(number: int) -> None:
        chance = Random(f"{seed}, visitor {number}")
        timeout, no_limits = httpx.Timeout(PATIENCE_S), httpx.Limits()
        async with httpx.AsyncClient(timeout=timeout, limits=no_limits) as http:
            while time.monotonic() < until:
                (kind,) = chance.choices(KINDS, weights)
                visits = [
                    Visit(url, chance.choice(KEYS), Random(chance.random()), http)
                    for _ in range(kind.at_once)
                ]
                outcomes[kind.name].update(await asyncio.gather(*(_come(kind, v) for v in visits)))

    await asyncio.gather(*(visitor(number) for number in range(VISITORS)))
    return outcomes


async def _come(kind: Kind, visit: Visit) -> str:
    try:
        return await kind.visit(visit)
    except websockets.InvalidStatus as refused:
        body = bytes(refused.response.body or b"")
        return visitors.told(httpx.Response(refused.response.status_code, content=body))
    except websockets.ConnectionClosed as closed:
        return f"closed {closed.rcvd.code if closed.rcvd else 'without a word'}"
    except Exception as error:  # any other end is a finding, to be counted with the rest
        return f"{type(error).__name__} {error}".strip()


def faults(
    outcomes: Outcomes, busy: dict[str, float], before: Held, after: Held, grown_bytes: float
) -> list[str]:
    """All that is not as it should be, in sentences."""
    found = [
        f"{kind.name}: {count} times {outcome}"
        for kind in KINDS
        for outcome, count in outcomes[kind.name].items()
        if outcome not in kind.right
    ]
    found += [f"still busy: {what}, {count:g}" for what, count in busy.items()]
    if after.worker != before.worker:
        found.append("the worker was replaced")
    if after.threads > before.threads + MORE_THREADS:
        found.append(f"threads: {before.threads}, then {after.threads}")
    if after.descriptors > before.descriptors + MORE_DESCRIPTORS:
        found.append(f"descriptors: {before.descriptors}, then {after.descriptors}")
    if after.processes != before.processes:
        found.append(f"processes: {dict(before.processes)}, then {dict(after.processes)}")
    if after.files:
        found.append(f"temporary files: {after.files}")
    if grown_bytes > MORE_BYTES:
        found.append(f"memory grew by {grown_bytes / 1e6:.0f} MB in the second half")
    return found


def confessed(server: Server) -> list[str]:
    """What the server itself has counted and logged that it should not have."""
    found = [
        f"{count:g} answers {labels} by the server's own count"
        for labels, count in samples(server, KEYS[0], "requests_total").items()
        if {"500", "501", "502", "504"} & set(labels)
    ]
    if failures := sum(samples(server, KEYS[0], "step_failures_total").values()):
        found.append(f"step failures: {failures:g}")
    bad = [line for line in server.lines() if "Traceback" in line or "[ERROR]" in line]
    return found + [f"log: {line}" for line in bad[:20]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = 60 * options.minutes

    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside,
        serving(Path(folder), **SETTINGS) as server,
    ):
        asyncio.run(crowd(server.url, options.warm_up, f"warm-up {options.seed}"))
        busy = rested(server, KEYS[0])
        time.sleep(SETTLE_S)
        before = Held.by(server)
        watching = beside.submit(watch, server.url, before.worker, seconds)
        outcomes = asyncio.run(crowd(server.url, seconds, f"soak {options.seed}"))
        seen = watching.result()
        with vandals.unread(server.url, KEYS[0]):
            time.sleep(SETTLE_S)
            busy |= rested(server, KEYS[0])
            after = settled(server, before)
        found = confessed(server)
        if status := server.stop():
            found.append(f"the server ended with {status}")

    found += faults(outcomes, busy, before, after, seen.growth_bytes_per_s * seconds / 2)
    _report(options.minutes, outcomes, before, after, seen)
    print(f"\n{len(found)} faults" if found else "\nnothing stayed, nothing went wrong")
    print("\n".join(f"- {fault}" for fault in found))
    sys.exit(bool(found))


def _report(minutes: float, outcomes: Outcomes, before: Held, after: Held, seen: Seen) -> None:
    total = sum(counts.total() for counts in outcomes.values())
    print(
        f"{date.today()}, demo, {psutil.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}, jax {version('jax')}, bentoml {version('bentoml')},"
        f" uvicorn {version('uvicorn')}; {minutes:g} minutes, {total:,} visits\n"
    )
    print("| Kind of visit | Visits | Outcomes |\n|---|---|---|")
    for name, counts in outcomes.items():
        each = ", ".join(f"{outcome}: {count:,}" for outcome, count in counts.most_common())
        print(f"| {name} | {counts.total():,} | {each} |")
    megabytes = np.array(seen.resident_bytes) / 1e6
    print("\n| The server, serving nobody | Before | After |\n|---|---|---|")
    for name in ("threads", "descriptors", "files"):
        print(f"| {name} | {getattr(before, name)} | {getattr(after, name)} |")
    print(f"| processes | {before.processes.total()} | {after.processes.total()} |")
    print("\n| Resident memory, MB | begin | half | end | most | slope, MB an hour |")
    print("|---|---|---|---|---|---|")
    moments = [megabytes[0], megabytes[len(megabytes) // 2], megabytes[-1], megabytes.max()]
    slope = seen.growth_bytes_per_s * 3600 / 1e6
    print(f"| | {' | '.join(f'{mb:.0f}' for mb in moments)} | {slope:+.1f} |")
    p50, p95, p99 = 1e3 * np.percentile(seen.health_s, (50, 95, 99))
    print(
        f"\n/health meanwhile, {len(seen.health_s):,} calls: p50 {p50:.1f} ms, p95 {p95:.1f} ms,"
        f" p99 {p99:.1f} ms, longest {1e3 * max(seen.health_s):.0f} ms"
    )


if __name__ == "__main__":
    main()
