"""Claim: clients without a key that flood the server do not disturb a client that listens.

    python -m bench.flood

One live jam plays in real time. Frame times are compared (a) without a flood, (b) while another
process sends requests that are refused, over many connections and as fast as it can, and (c)
while it sends as many in the same time to a reference server of a few lines in yet another
process, which shows what the sender itself takes from this machine. The three take turns.

Frame time is the server's own histogram, ``step_frame_seconds``: a step's time, divided by its
frames. Lateness is measured at the listener: how long after its time a chunk arrived, where the
earliest chunk of a phase is on time by definition.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop
import websockets

from bench.monitor import Resources, metric_samples
from magenta_bento.audio.formats import FRAME_MS, FRAME_SAMPLES
from tests.serving import Server, free_port, serving

KEY = "key-of-the-listener"
CONNECTIONS = 50
SAMPLE_BYTES = 4
PERCENTILES = (50, 99)

_POST = "POST /generate/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_BODY = '{"prompt": "funk"}'
_UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
# Each request, the status that refuses it, and whether the server closes the connection then.
REQUESTS = [
    (f"{_POST}Content-Length: {len(_BODY)}\r\n\r\n{_BODY}", b"401", False),
    (f"{_POST}X-API-Key: wrong\r\nContent-Length: {len(_BODY)}\r\n\r\n{_BODY}", b"401", False),
    (
        f"GET /ws/jam HTTP/1.1\r\nHost: x\r\n{_UPGRADE}Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n",
        b"401",
        True,
    ),
    (f"{_POST}Content-Length: 999999999\r\n\r\n", b"413", True),
]


# The sender, in a process of its own.


@dataclass
class FloodResult:
    """What a flood sent, and what came back.

    Attributes:
      requests: How many requests were answered.
      seconds: How long the flood took.
      cpu_s: Processor time of the sender.
      unexpected: How many answers had another status than expected, by status.
    """

    requests: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    unexpected: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def flood(port: int, seconds: float = 0.0, rate: float = 0.0, min_requests: int = 0) -> FloodResult:
    """Floods a server on this machine.

    Args:
      port: The server's port.
      seconds: For how long, at least.
      rate: Requests per second of all connections together; 0 for as many as possible.
      min_requests: The flood goes on after ``seconds`` until so many requests were answered.
    """
    sent = FloodResult()
    began, cpu_began = time.perf_counter(), time.process_time()
    numbers = itertools.count()

    def continues() -> bool:
        lasted_s = time.perf_counter() - began
        return lasted_s < seconds or sent.requests < min_requests

    async def connection(first: int) -> None:
        kinds = itertools.islice(itertools.cycle(REQUESTS), first, None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while continues():
            if rate:
                await asyncio.sleep(began + next(numbers) / rate - time.perf_counter())
            request, expected, is_last = next(kinds)
            writer.write(request.encode())
            status = await _status(reader)
            sent.requests += 1
            if status != expected:
                sent.unexpected[status.decode()] += 1
            if is_last:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    async def all_connections() -> None:
        await asyncio.gather(*(connection(first) for first in range(CONNECTIONS)))

    uvloop.run(all_connections())
    sent.seconds = time.perf_counter() - began
    sent.cpu_s = time.process_time() - cpu_began
    return sent


async def _status(reader: asyncio.StreamReader) -> bytes:
    """The status of the next answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head[9:12]


# The reference server, in a process of its own too.


class RefusingProtocol(asyncio.Protocol):
    """Answers each request with the status that the sender expects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        status = b"413" if b"999999999" in data else b"401"
        self._transport.write(b"HTTP/1.1 " + status + b" No\r\nContent-Length: 2\r\n\r\n{}")


def run_refusing_server(port: int) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(RefusingProtocol, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


# The listener.


@dataclass
class Phase:
    """What was measured during one phase: without a flood, under it, or beside it.

    Attributes:
      steps: The cumulative histogram of frame times: bound in seconds to number of steps.
      arrivals: When each chunk arrived, and how many milliseconds of music arrived before it.
      sent: The flood of the phase.
      server_cpu_s: Processor time of the worker.
    """

    steps: Counter[float] = field(default_factory=Counter)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    sent: FloodResult = field(default_factory=FloodResult)
    server_cpu_s: float = 0.0

    @property
    def lateness_ms(self) -> list[float]:
        """How late each chunk was, relative to the earliest one."""
        offsets_ms = np.array([1e3 * time_s - played_ms for time_s, played_ms in self.arrivals])
        return list(offsets_ms - offsets_ms.min())


def step_percentile_ms(phases: list[Phase], percentile: float) -> float:
    """A percentile of the frame times, linearly interpolated between the histogram's bounds."""
    total = sum((phase.steps for phase in phases), Counter())
    bounds = sorted(total)
    counts = [total[bound] for bound in bounds]
    return 1e3 * float(np.interp(percentile / 100 * counts[-1], counts, bounds))


class LiveListener:
    """A client of /ws/jam that records when each chunk of audio arrives."""

    def __init__(self, chunk_ms: int, lead_ms: int) -> None:
        self.arrivals: list[tuple[float, int]] = []
        self._start = {"type": "start", "prompts": [{"text": "disco funk"}], "seed": 1}
        self._start |= {"chunk_ms": chunk_ms, "lead_ms": lead_ms}

    async def play(self, url: str) -> None:
        address = url.replace("http", "ws") + "/ws/jam"
        played_ms = 0
        async with websockets.connect(address, additional_headers={"X-API-Key": KEY}) as socket:
            await socket.send(json.dumps(self._start))
            async for message in socket:
                if isinstance(message, bytes):
                    self.arrivals.append((time.perf_counter(), played_ms))
                    played_ms += len(message) // SAMPLE_BYTES // FRAME_SAMPLES * FRAME_MS


def _steps(server: Server) -> Counter[float]:
    buckets = metric_samples(server, KEY, "step_frame_seconds_bucket")
    return Counter({float(bound): int(n) for (bound,), n in buckets.items() if bound != "+Inf"})


async def measure(
    server: Server,
    jam: LiveListener,
    sender: ProcessPoolExecutor,
    port: int,
    seconds: float,
    rate: float,
    min_requests: int,
) -> Phase:
    """Measures one phase.

    Args:
      server: The server that plays.
      jam: The client that listens to it.
      sender: The process that floods.
      port: The port that is flooded; 0 for a phase without a flood.
      seconds, rate, min_requests: As in :func:`flood`.
    """
    worker = psutil.Process(Resources.held_by(server).worker)
    await asyncio.sleep(1)  # until the requests of the phase before have ended
    steps_before = await asyncio.to_thread(_steps, server)
    cpu_before = sum(worker.cpu_times()[:2])
    first = len(jam.arrivals)
    phase = Phase()
    if port:
        loop = asyncio.get_running_loop()
        phase.sent = await loop.run_in_executor(sender, flood, port, seconds, rate, min_requests)
    else:
        await asyncio.sleep(seconds)
    phase.arrivals = jam.arrivals[first:]
    phase.server_cpu_s = sum(worker.cpu_times()[:2]) - cpu_before
    phase.steps = await asyncio.to_thread(_steps, server) - steps_before
    return phase


async def run_rounds(server: Server, options: argparse.Namespace) -> dict[str, list[Phase]]:
    server_port, reference_port = urlsplit(server.url).port or 0, free_port()
    phases: dict[str, list[Phase]] = {"no flood": [], "flood": [], "flood elsewhere": []}
    spawning = multiprocessing.get_context("spawn")
    reference = spawning.Process(target=run_refusing_server, args=(reference_port,), daemon=True)
    reference.start()
    jam = LiveListener(options.chunk_ms, options.lead_ms)
    playing = asyncio.create_task(jam.play(server.url))
    with ProcessPoolExecutor(1, mp_context=spawning) as sender:
        # Waits until the sender's process has started.
        await asyncio.get_running_loop().run_in_executor(sender, time.sleep, 0)
        await asyncio.sleep(3)
        for _ in range(options.rounds):
            seconds = options.seconds
            no_flood = await measure(server, jam, sender, 0, seconds, 0, 0)
            flooded = await measure(server, jam, sender, server_port, seconds, 0, options.requests)
            sent = flooded.sent
            elsewhere = await measure(
                server, jam, sender, reference_port, sent.seconds, sent.rate, 0
            )
            for name, phase in zip(phases, (no_flood, flooded, elsewhere), strict=True):
                phases[name].append(phase)
    playing.cancel()
    reference.kill()
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each phase, at least")
    parser.add_argument("--requests", type=int, default=5_000, help="of each flood, at least")
    parser.add_argument("--chunk-ms", type=int, default=40)
    parser.add_argument("--lead-ms", type=int, default=120)
    parser.add_argument("--unpaced", action="store_true", help="without REFUSALS_PER_SECOND")
    options = parser.parse_args()
    settings = {"ENABLE_AUTH": "true", "API_KEYS": f"one:{KEY}", "MAX_STREAMS": "0"}
    settings |= {"REFUSALS_PER_SECOND": "0"} if options.unpaced else {}
    with TemporaryDirectory() as folder, serving(Path(folder), **settings) as server:
        phases = asyncio.run(run_rounds(server, options))
    _report(phases, options)


def _report(phases: dict[str, list[Phase]], options: argparse.Namespace) -> None:
    print(
        f"{date.today()}, demo, {psutil.cpu_count()} cores, {options.rounds} rounds of"
        f" {options.seconds:g} s, chunks of {options.chunk_ms} ms, lead {options.lead_ms} ms\n"
    )
    heads = ["", "requests", "requests/s", "server CPU", "sender CPU"]
    heads += [f"frame time {p}, ms" for p in ("p50", "p90", "p99")]
    heads += [f"lateness {p}, ms" for p in ("p50", "p90", "p99", "longest")]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name, group in phases.items():
        print(f"| {name} | {' | '.join(_cells(group, options.seconds))} |")
    no_flood, flooded, elsewhere = phases.values()
    print("\n| Ratio, each round, then all | frame time p50 | frame time p99 | lateness p99 |")
    print("|---|---|---|---|")
    for name, base in (("flood / no flood", no_flood), ("flood / flood elsewhere", elsewhere)):
        cells = []
        for figure in (_frame_p50, _frame_p99, _lateness_p99):
            each = [figure([f]) / figure([b]) for f, b in zip(flooded, base, strict=True)]
            together = figure(flooded) / figure(base)
            cells.append(", ".join(f"{ratio:.2f}" for ratio in each) + f"; {together:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")
    for phase in flooded + elsewhere:
        if phase.sent.unexpected:
            print(f"\nunexpected answers: {dict(phase.sent.unexpected)}")


def _cells(group: list[Phase], seconds: float) -> list[str]:
    lateness_ms = [ms for phase in group for ms in phase.lateness_ms]
    lasted_s = sum(phase.sent.seconds or seconds for phase in group)
    requests = sum(phase.sent.requests for phase in group)
    sender_s, server_s = (sum(p.sent.cpu_s for p in group), sum(p.server_cpu_s for p in group))
    cells = [f"{requests:,}", f"{requests / lasted_s:,.0f}"]
    cells += [f"{100 * cpu_s / lasted_s:.0f}%" for cpu_s in (server_s, sender_s)]
    cells += [f"{step_percentile_ms(group, p):.1f}" for p in (50, 90, 99)]
    return cells + [
        f"{ms:.1f}" for ms in [*np.percentile(lateness_ms, (50, 90, 99)), max(lateness_ms)]
    ]


def _frame_p50(group: list[Phase]) -> float:
    return step_percentile_ms(group, 50)


def _frame_p99(group: list[Phase]) -> float:
    return step_percentile_ms(group, 99)


def _lateness_p99(group: list[Phase]) -> float:
    return float(np.percentile([ms for phase in group for ms in phase.lateness_ms], 99))


if __name__ == "__main__":
    main()
