"""The resources of a server and its responsiveness, as seen from outside its processes.

Invariant: the counts are those of other clients; the requests made here are subtracted.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

from bench.traffic import TIMEOUT_S
from tests.serving import Server

SAMPLE_EVERY_S = 0.2
IDLE_TIMEOUT_S = 180.0  # how long the last requests of a load may take to end
WORKER = "_bentoml_impl.worker"


@dataclass(frozen=True)
class Resources:
    """The resources of a server that is idle.

    Attributes:
      worker: Process id of the worker, which serves all requests.
      threads: How many threads the worker has.
      descriptors: How many file descriptors the worker has.
      processes: How many processes the server has, by their role.
      files: How many temporary files the server has.
    """

    worker: int
    threads: int
    descriptors: int
    processes: Counter[str]
    files: int

    @classmethod
    def held_by(cls, server: Server) -> Resources:
        """The resources that a server has now."""
        processes = psutil.Process(server.process.pid).children(recursive=True)
        (worker,) = [p for p in processes if WORKER in _role(p)]
        return cls(
            worker=worker.pid,
            threads=worker.num_threads(),
            descriptors=worker.num_fds(),
            processes=Counter(map(_role, processes)),
            files=sum(path.is_file() for path in server.temp.rglob("*")),
        )


def wait_for_release(server: Server, before: Resources) -> Resources:
    """Waits until a server has no more than before, at most ``IDLE_TIMEOUT_S`` seconds.

    Returns:
      The resources that it has then.
    """
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    while time.monotonic() < deadline:
        held = Resources.held_by(server)
        if held.descriptors <= before.descriptors and held.processes == before.processes:
            return held
        time.sleep(1)
    return Resources.held_by(server)


def _role(process: psutil.Process) -> str:
    if process.status() == psutil.STATUS_ZOMBIE:
        return "zombie"
    return " ".join(process.cmdline()[1:4])


def metric_samples(server: Server, key: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric, by the values of its labels in the order of the labels' names.

    Args:
      server: The server.
      key: An API key of it.
      name: The name of the samples, without ``magenta_bento_``.
    """
    headers = {"X-API-Key": key}
    answer = requests.get(f"{server.url}/metrics", headers=headers, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == f"magenta_bento_{name}"
    }


def wait_until_idle(server: Server, key: str) -> dict[str, float]:
    """Waits until a server serves nothing, at most ``IDLE_TIMEOUT_S`` seconds.

    Returns:
      What it still serves then, with how much of it; empty if it is idle.
    """
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        streams = requests.get(f"{server.url}/health", timeout=TIMEOUT_S).json()["streams"]
        busy: dict[str, float] = {f"streams, {s}": streams[s] for s in ("active", "waiting")}
        opened = metric_samples(server, key, "open_requests")
        opened["/metrics",] -= 1  # the request that reads the metric
        busy |= {f"requests of {route}": count for (route,), count in opened.items()}
        busy = {what: count for what, count in busy.items() if count}
        if not busy or time.monotonic() > deadline:
            return busy
        time.sleep(0.5)


@dataclass
class Observations:
    """Samples that were taken every ``SAMPLE_EVERY_S`` seconds; each list has an entry a sample.

    Attributes:
      time_s: Seconds since the first sample.
      resident_bytes: The worker's resident memory.
      health_s: How long ``/health`` took to answer.
    """

    time_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    @property
    def growth_bytes_per_s(self) -> float:
        """The slope of the least-squares line through the memory of the second half."""
        half = len(self.time_s) // 2
        slope, _ = np.polyfit(self.time_s[half:], self.resident_bytes[half:], 1)
        return float(slope)


def observe(url: str, worker: int, seconds: float) -> Observations:
    """Takes samples for some seconds.

    It is to run in a process of its own, so that the clients of the load don't delay it.
    """
    observed = Observations()
    process = psutil.Process(worker)
    started = time.monotonic()
    with requests.Session() as session:
        while (now := time.monotonic()) - started < seconds:
            session.get(f"{url}/health", timeout=TIMEOUT_S).raise_for_status()
            observed.health_s.append(time.monotonic() - now)
            observed.time_s.append(now - started)
            observed.resident_bytes.append(process.memory_info().rss)
            time.sleep(SAMPLE_EVERY_S)
    return observed
