"""Claim: no client leaves anything in the server, whether it stays, leaves early or attacks.

    python -m bench.soak --minutes 15

Many clients use a real server that asks for API keys. They play scenarios: clients that want
music or leave before they have it (``bench.traffic``), and clients that make mistakes or attack
(``bench.hostile_clients``). Each outcome is compared with those that are right for the scenario.
Before and after, once the server is idle, its resources are counted from outside: slots, open
requests, threads, descriptors, processes, files. At the second count two connections are still
open whose answers are never read.

The clients run for a while before the first count, so that pools of threads are full by then.
Memory growth is the slope of a line through the worker's resident size over the second half of
the time. Meanwhile another process asks for /health. The exit code is 1 if the server kept
anything or an outcome was wrong.
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

from bench import hostile_clients, traffic
from bench.monitor import (
    Observations,
    Resources,
    metric_samples,
    observe,
    wait_for_release,
    wait_until_idle,
)
from bench.traffic import LEFT, PLAYED, TIMEOUT_S, Client
from tests.serving import Server, serving

CLIENTS = 24
KEYS = [f"key-of-the-soak-number-{i}" for i in range(6)]
SETTINGS = {
    "MAX_STREAMS": "0",
    "ENABLE_AUTH": "true",
    "API_KEYS": ",".join(f"k{i}:{key}" for i, key in enumerate(KEYS)),
    # The limits are high, but not off, because counting may leak too.
    "RATE_LIMIT_PER_MINUTE": "1000000",
    "RATE_LIMIT_AUDIO_SECONDS_PER_HOUR": "10000000",
    "MAX_CONCURRENT_PER_CLIENT": "16",
    "MAX_FILE_SIZE_MB": "4",
    "BODY_TIMEOUT_S": "3",
}
SETTLE_S = 15.0  # until idle threads and connections are closed
MAX_THREAD_GROWTH = 8  # a pool's idle threads start and end at any time
MAX_DESCRIPTOR_GROWTH = 4
MAX_MEMORY_GROWTH_BYTES = 30e6  # in the second half


@dataclass(frozen=True)
class Scenario:
    """A scenario, and how it is played in a soak.

    Attributes:
      play: The scenario itself, of ``traffic`` or ``hostile_clients``.
      weight: How often it is chosen, relative to the others.
      expected: The outcomes that are right.
      at_once: How many clients play it at the same time.
    """

    play: Callable[[Client], Awaitable[str]]
    weight: int
    expected: set[str]
    at_once: int = 1

    @property
    def name(self) -> str:
        together = f", {self.at_once} at once" if self.at_once > 1 else ""
        return self.play.__name__.replace("_", " ") + together


_BUSY = {"429 too_many_at_once", "503 overloaded"}
_MUSIC = {"200", *_BUSY}
_LIVE = {PLAYED, "error overloaded", "closed 1013", *_BUSY}
_REFUSED = {"400 invalid_input", "400 undecodable_audio", "404 not_found", "405 method_not_allowed"}
_REFUSED |= {"413 payload_too_large", "415 unsupported_media_type"}
_REFUSED_MESSAGE = {"error invalid_input", "error undecodable_audio", "closed 1009"}
SCENARIOS = [
    Scenario(traffic.generate, 60, _MUSIC),
    Scenario(traffic.generate, 1, _MUSIC, at_once=100),
    Scenario(traffic.generate_from_audio, 24, _MUSIC),
    Scenario(traffic.leave_generation, 45, {LEFT, *_MUSIC}),
    Scenario(traffic.stream, 45, _MUSIC),
    Scenario(traffic.leave_stream, 45, {LEFT, *_MUSIC}),
    Scenario(traffic.upload, 24, _MUSIC),
    Scenario(traffic.embed_text, 15, _MUSIC),
    Scenario(traffic.get_page, 15, {"200", "307", "404 not_found"}),
    Scenario(traffic.jam, 45, _LIVE),
    Scenario(traffic.lyria, 30, _LIVE),
    Scenario(
        hostile_clients.upload_damaged, 30, {"400 invalid_input", "400 undecodable_audio", *_MUSIC}
    ),
    Scenario(hostile_clients.send_invalid_request, 60, _REFUSED | _BUSY | {hostile_clients.RESET}),
    Scenario(hostile_clients.send_invalid_message, 24, _REFUSED_MESSAGE | _BUSY),
    Scenario(
        hostile_clients.send_too_much, 15, {"413 payload_too_large", hostile_clients.RESET, *_BUSY}
    ),
    Scenario(hostile_clients.send_slowly, 15, {"408 slow_body", *_BUSY}),
    Scenario(hostile_clients.send_without_key, 5, {"401 unauthorized"}, at_once=100),
    Scenario(hostile_clients.reset_connection, 45, {LEFT}),
    Scenario(hostile_clients.ignore_response, 3, {hostile_clients.CUT_OFF, *_BUSY}),
    Scenario(hostile_clients.ignore_live_audio, 3, {LEFT, *_BUSY}),
]

Outcomes = dict[str, Counter[str]]  # of each scenario


async def run_scenarios(url: str, seconds: float, seed: str) -> Outcomes:
    """Plays scenarios, ``CLIENTS`` at a time, for some seconds; returns when all have ended."""
    outcomes: Outcomes = {scenario.name: Counter() for scenario in SCENARIOS}
    deadline = time.monotonic() + seconds
    weights = [scenario.weight for scenario in SCENARIOS]

    async def play_one_after_another(number: int) -> None:
        rng = Random(f"{seed}, client {number}")
        timeout, no_limits = httpx.Timeout(TIMEOUT_S), httpx.Limits()
        async with httpx.AsyncClient(timeout=timeout, limits=no_limits) as http:
            while time.monotonic() < deadline:
                (scenario,) = rng.choices(SCENARIOS, weights)
                clients = [
                    Client(url, rng.choice(KEYS), Random(rng.random()), http)
                    for _ in range(scenario.at_once)
                ]
                outcomes[scenario.name].update(
                    await asyncio.gather(*(_outcome(scenario, client) for client in clients))
                )

    await asyncio.gather(*(play_one_after_another(number) for number in range(CLIENTS)))
    return outcomes


async def _outcome(scenario: Scenario, client: Client) -> str:
    try:
        return await scenario.play(client)
    except websockets.InvalidStatus as refused:
        body = bytes(refused.response.body or b"")
        return traffic.outcome_of(httpx.Response(refused.response.status_code, content=body))
    except websockets.ConnectionClosed as closed:
        return f"closed {closed.rcvd.code if closed.rcvd else 'without a word'}"
    except Exception as error:  # counted as an outcome, which no scenario expects
        return f"{type(error).__name__} {error}".strip()


def faults(
    outcomes: Outcomes,
    busy: dict[str, float],
    before: Resources,
    after: Resources,
    memory_growth_bytes: float,
) -> list[str]:
    """A phrase for each wrong outcome, and for all that the server kept."""
    found = [
        f"{scenario.name}: {count} times {outcome}"
        for scenario in SCENARIOS
        for outcome, count in outcomes[scenario.name].items()
        if outcome not in scenario.expected
    ]
    found += [f"still busy: {what}, {count:g}" for what, count in busy.items()]
    if after.worker != before.worker:
        found.append("the worker was replaced")
    if after.threads > before.threads + MAX_THREAD_GROWTH:
        found.append(f"threads: {before.threads}, then {after.threads}")
    if after.descriptors > before.descriptors + MAX_DESCRIPTOR_GROWTH:
        found.append(f"descriptors: {before.descriptors}, then {after.descriptors}")
    if after.processes != before.processes:
        found.append(f"processes: {dict(before.processes)}, then {dict(after.processes)}")
    if after.files:
        found.append(f"temporary files: {after.files}")
    if memory_growth_bytes > MAX_MEMORY_GROWTH_BYTES:
        found.append(f"memory grew by {memory_growth_bytes / 1e6:.0f} MB in the second half")
    return found


def self_reported_faults(server: Server) -> list[str]:
    """A phrase for each fault that the server itself has counted or logged."""
    found = [
        f"{count:g} answers {labels} by the server's own count"
        for labels, count in metric_samples(server, KEYS[0], "requests_total").items()
        if {"500", "501", "502", "504"} & set(labels)
    ]
    if failures := sum(metric_samples(server, KEYS[0], "step_failures_total").values()):
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
        asyncio.run(run_scenarios(server.url, options.warm_up, f"warm-up {options.seed}"))
        busy = wait_until_idle(server, KEYS[0])
        time.sleep(SETTLE_S)
        before = Resources.held_by(server)
        observing = beside.submit(observe, server.url, before.worker, seconds)
        outcomes = asyncio.run(run_scenarios(server.url, seconds, f"soak {options.seed}"))
        observed = observing.result()
        with hostile_clients.unread_responses(server.url, KEYS[0]):
            time.sleep(SETTLE_S)
            busy |= wait_until_idle(server, KEYS[0])
            after = wait_for_release(server, before)
        found = self_reported_faults(server)
        if status := server.stop():
            found.append(f"the server ended with {status}")

    found += faults(outcomes, busy, before, after, observed.growth_bytes_per_s * seconds / 2)
    _report(options.minutes, outcomes, before, after, observed)
    print(
        f"\n{len(found)} faults" if found else "\nthe server kept nothing, and no outcome was wrong"
    )
    print("\n".join(f"- {fault}" for fault in found))
    sys.exit(bool(found))


def _report(
    minutes: float, outcomes: Outcomes, before: Resources, after: Resources, observed: Observations
) -> None:
    total = sum(counts.total() for counts in outcomes.values())
    print(
        f"{date.today()}, demo, {psutil.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}, jax {version('jax')}, bentoml {version('bentoml')},"
        f" uvicorn {version('uvicorn')}; {minutes:g} minutes, {total:,} clients\n"
    )
    print("| Scenario | Clients | Outcomes |\n|---|---|---|")
    for name, counts in outcomes.items():
        each = ", ".join(f"{outcome}: {count:,}" for outcome, count in counts.most_common())
        print(f"| {name} | {counts.total():,} | {each} |")
    megabytes = np.array(observed.resident_bytes) / 1e6
    print("\n| The server, idle | Before | After |\n|---|---|---|")
    for name in ("threads", "descriptors", "files"):
        print(f"| {name} | {getattr(before, name)} | {getattr(after, name)} |")
    print(f"| processes | {before.processes.total()} | {after.processes.total()} |")
    print("\n| Resident memory, MB | begin | half | end | most | slope, MB an hour |")
    print("|---|---|---|---|---|---|")
    moments = [megabytes[0], megabytes[len(megabytes) // 2], megabytes[-1], megabytes.max()]
    slope = observed.growth_bytes_per_s * 3600 / 1e6
    print(f"| | {' | '.join(f'{mb:.0f}' for mb in moments)} | {slope:+.1f} |")
    p50, p95, p99 = 1e3 * np.percentile(observed.health_s, (50, 95, 99))
    print(
        f"\n/health meanwhile, {len(observed.health_s):,} calls: p50 {p50:.1f} ms,"
        f" p95 {p95:.1f} ms, p99 {p99:.1f} ms, longest {1e3 * max(observed.health_s):.0f} ms"
    )


if __name__ == "__main__":
    main()
