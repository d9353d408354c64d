"""What a server holds and how it fares, seen from outside its processes.

Invariant: looking changes nothing but the count of one's own questions, which is taken off.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

from bench.visitors import PATIENCE_S
from tests.serving import Server

LOOK_EVERY_S = 0.2
REST_S = 180.0  # for the last of a load to end
WORKER = "_bentoml_impl.worker"


@dataclass(frozen=True)
class Held:
    """What a server that serves nobody holds.

    Attributes:
      worker: Process id of the one that serves.
      threads: Of the worker.
      descriptors: Likewise.
      processes: All of the server's, by what they are.
      files: Its temporary ones.
    """

    worker: int
    threads: int
    descriptors: int
    processes: Counter[str]
    files: int

    @classmethod
    def by(cls, server: Server) -> Held:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        (worker,) = [p for p in processes if WORKER in _role(p)]
        return cls(
            worker=worker.pid,
            threads=worker.num_threads(),
            descriptors=worker.num_fds(),
            processes=Counter(map(_role, processes)),
            files=sum(path.is_file() for path in server.temp.rglob("*")),
        )


def settled(server: Server, before: Held) -> Held:
    """What it holds once it is no more than before, or after ``REST_S``."""
    deadline = time.monotonic() + REST_S
    while time.monotonic() < deadline:
        held = Held.by(server)
        if held.descriptors <= before.descriptors and held.processes == before.processes:
            return held
        time.sleep(1)
    return Held.by(server)


def _role(process: psutil.Process) -> str:
    if process.status() == psutil.STATUS_ZOMBIE:
        return "zombie"
    return " ".join(process.cmdline()[1:4])


def samples(server: Server, key: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one of the server's metrics, by their labels' values in the labels' order.

    Args:
      key: An API key.
      name: As exposed, without ``magenta_bento_``.
    """
    headers = {"X-API-Key": key}
    answer = requests.get(f"{server.url}/metrics", headers=headers, timeout=PATIENCE_S)
    answer.raise_for_status()
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == f"magenta_bento_{name}"
    }


def rested(server: Server, key: str) -> dict[str, float]:
    """Waits until nothing is served; returns what still is after ``REST_S``."""
    deadline = time.monotonic() + REST_S
    while True:
        streams = requests.get(f"{server.url}/health", timeout=PATIENCE_S).json()["streams"]
        busy: dict[str, float] = {f"streams, {s}": streams[s] for s in ("active", "waiting")}
        opened = samples(server, key, "open_requests")
        opened["/metrics",] -= 1  # this very question
        busy |= {f"requests of {route}": count for (route,), count in opened.items()}
        busy = {what: count for what, count in busy.items() if count}
        if not busy or time.monotonic() > deadline:
            return busy
        time.sleep(0.5)


@dataclass
class Seen:
    """What was seen over a time, every ``LOOK_EVERY_S``; each list has an entry a look.

    Attributes:
      at_s: When, from the beginning.
      resident_bytes: The worker's memory.
      health_s: What ``/health`` took.
    """

    at_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    @property
    def growth_bytes_per_s(self) -> float:
        """The slope of the least-squares line through the second half's memory."""
        half = len(self.at_s) // 2
        slope, _ = np.polyfit(self.at_s[half:], self.resident_bytes[half:], 1)
        return float(slope)


def watch(url: str, worker: int, seconds: float) -> Seen:
    """Watches a server for so long; for a process of its own, which no client holds up."""
    seen = Seen()
    process = psutil.Process(worker)
    began = time.monotonic()
    with requests.Session() as session:
        while (now := time.monotonic()) - began < seconds:
            session.get(f"{url}/health", timeout=PATIENCE_S).raise_for_status()
            seen.health_s.append(time.monotonic() - now)
            seen.at_s.append(now - began)
            seen.resident_bytes.append(process.memory_info().rss)
            time.sleep(LOOK_EVERY_S)
    return seen
