"""Claim: the engine makes one stream faster than the stock system, and many in the time of few.

    python -m bench.engine --model demo
    python -m bench.engine --model mrt2_small --streams 1,4

Every row comes from one run on one machine: first upstream's ``MagentaRT2System.generate`` as
it ships (bfloat16) and in float32, then our engine with one stream and with more. Ratios are
of frames per second. On a GPU the weight bytes of a frame over the measured memory bandwidth
give the floor that no single stream can beat.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from magenta_rt.musiccoca import MusicCoCa
from prometheus_client import CollectorRegistry

from bench.stock import stock_system
from bench.weights import DEMO_HOME, files_in, model_home
from magenta_bento import conditioning
from magenta_bento.audio.formats import FRAMES_PER_SECOND
from magenta_bento.config import Settings
from magenta_bento.controls import STYLE_LEVELS
from magenta_bento.engine.engine import Engine
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.metrics import Metrics
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.loader import device_memory, load_model
from magenta_bento.model.protocol import StepInputs
from magenta_bento.timeline import constant

STYLE = np.arange(STYLE_LEVELS, dtype=np.int32)


@dataclass(frozen=True)
class Row:
    """One measured system."""

    system: str
    streams: int
    frames_per_s: float  # of all streams together
    step_ms: Sequence[float]  # of each step of one frame, where steps can be told apart

    def cells(self, stock: dict[str, float]) -> list[str]:
        p50, p95, p99 = (
            (f"{np.percentile(self.step_ms, q):.2f}" for q in (50, 95, 99))
            if len(self.step_ms)
            else ("", "", "")
        )
        return [
            self.system,
            str(self.streams),
            f"{self.frames_per_s:.1f}",
            f"{self.frames_per_s / FRAMES_PER_SECOND:.2f}",
            f"{self.frames_per_s / FRAMES_PER_SECOND / self.streams:.2f}",
            *(f"{self.frames_per_s / fps:.2f}x" for fps in stock.values()),
            p50,
            p95,
            p99,
        ]


def stock_row(name: str, home: object, dtype: str, frames: int) -> Row:
    """Upstream's system, one stream, as a caller of ``generate`` sees it."""
    from pathlib import Path

    style = MusicCoCa(DEMO_HOME / "resources" / "musiccoca")
    system = stock_system(name, Path(str(home)), jnp.dtype(dtype), style_model=style)
    prompt = {"mulan_tokens_25hz": STYLE.tolist()}
    _, state = system.generate(prompt, frames=3)
    started = time.perf_counter()
    system.generate(prompt, frames=frames, state=state)
    return Row(f"stock, {dtype}", 1, frames / (time.perf_counter() - started), [])


def engine_row(model: JaxModel, streams: int, frames: int) -> Row:
    """Our engine with so many concurrent streams, as a reader of the streams sees it."""
    engine = Engine(model, queue_bound=streams, metrics=Metrics(CollectorRegistry()))
    engine.start()

    async def listen(seed: int, count: int) -> None:
        spec = StreamSpec(constant(STYLE), seed, count)
        async for _ in engine.submit(spec, asyncio.get_running_loop()).blocks():
            pass

    async def listen_all(count: int) -> float:
        started = time.perf_counter()
        await asyncio.gather(*(listen(seed, count) for seed in range(streams)))
        return time.perf_counter() - started

    async def run() -> float:
        await listen_all(5)
        return await listen_all(frames)

    took_s = asyncio.run(run())
    engine.stop()
    # The warm-up frame of each stream is work too.
    return Row("engine", streams, streams * (frames + 1) / took_s, step_times(model, streams))


def step_times(model: JaxModel, streams: int, steps: int = 100) -> list[float]:
    """Milliseconds of single-frame steps of the batch that so many streams play in."""
    size = next(b for b in model.batch_sizes if b >= streams)
    state = model.init_state(size)
    for row in range(size):
        state = model.insert(state, row, row)
    inputs = StepInputs(
        np.tile(conditioning.rows(STYLE[None]), (size, 1, 1)),
        np.full((size, 1), 1.3, np.float32),
        np.full((size, 1), 40, np.int32),
        np.arange(size) < streams,
    )
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        state, audio = model.step(state, inputs)
        audio.fetch()
        times.append(1e3 * (time.perf_counter() - started))
        if sum(times) > 20_000:
            break
    return times[3:]


def bandwidth_bytes_per_s() -> float:
    """Bytes read plus bytes written per second by a large copy on the device."""
    a = jnp.ones(1 << 28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(a).block_until_ready()
    started = time.perf_counter()
    for _ in range(10):
        a = copy(a)
    a.block_until_ready()
    return 10 * 2 * a.nbytes / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--frames", type=int, default=0, help="of each row; 0 to fit the model")
    parser.add_argument("--streams", default="1,4,8", help="concurrent streams, a row each")
    options = parser.parse_args()
    streams = [int(n) for n in options.streams.split(",")]
    demo = options.model == "demo"
    frames = options.frames or (250 if demo else 50)

    device = jax.devices()[0]
    print(
        f"{date.today()}, {device.device_kind}, {platform.machine()}, jax {version('jax')},"
        f" magenta-rt {version('magenta-rt')}, {options.model}, {frames} frames a stream"
    )
    with model_home(options.model) as home:
        rows = [
            stock_row(options.model, home, dtype, max(25, frames // (5 if demo else 2)))
            for dtype in ("bfloat16", "float32")
        ]
        settings = Settings(max_streams=max(streams))
        model, report = load_model(settings, files_in(home, options.model))
    rows += [engine_row(model, n, frames) for n in streams]

    stock = {row.system: row.frames_per_s for row in rows[:2]}
    heads = ["system", "streams", "frames/s", "RTF, all", "RTF, each"]
    heads += [f"against {name}" for name in stock] + ["step p50 ms", "p95", "p99"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row.cells(stock)) + " |")
    print(
        f"\n{report.dtype}; parameters {model.parameter_bytes / 1e6:.0f} MB;"
        f" {model.state_bytes / 1e6:.2f} MB a stream; start: {report.phases_s}"
    )
    if device.platform != "cpu":
        bandwidth = bandwidth_bytes_per_s()
        print(
            f"bandwidth {bandwidth / 1e9:.0f} GB/s; all parameters once:"
            f" {1e3 * model.parameter_bytes / bandwidth:.2f} ms; memory {device_memory()}"
        )


if __name__ == "__main__":
    main()
