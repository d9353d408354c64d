"""A model without a device, for the engine's tests: fast, exact, and faulty on demand.

A row's audio is a function of its seed, its frame's index and its conditioning, so that audio
that reaches the wrong stream, twice, or not at all is seen at once.

Invariant: a state is used up by the call it is given to, as on a device; using it again raises.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from magenta_bento.audio.formats import FRAME_SAMPLES
from magenta_bento.audio.pcm import Pcm
from magenta_bento.conditioning import SIZE
from magenta_bento.controls import STYLE_LEVELS, Controls
from magenta_bento.engine.engine import Engine
from magenta_bento.engine.stream import Stream
from magenta_bento.engine.stream_spec import LOOKAHEAD_FRAMES, StreamSpec
from magenta_bento.metrics import Metrics
from magenta_bento.model.protocol import Model, StepInputs
from magenta_bento.timeline import Timeline, constant

HANG_S = 30.0  # far beyond what any of these tests takes: what takes longer hangs


class DeviceError(RuntimeError):
    """What a device raises."""


@dataclass
class FakeState:
    """int64 [B] each: a row's seed, and how many frames it has made."""

    seeds: NDArray[np.int64]
    frames: NDArray[np.int64]
    used_up: bool = False


@dataclass
class FakeAudio:
    pcm: NDArray[np.int16]
    fail: Callable[[], None]

    def fetch(self) -> NDArray[np.int16]:
        self.fail()
        return self.pcm


@dataclass
class FakeModel:
    """See the module and :class:`magenta_bento.model.protocol.Model`.

    Attributes:
      gate: While it is cleared, a step blocks.
      calls: How often each method was called.
      steps: (batch size, frames) of each step.
    """

    batch_sizes: Sequence[int] = (1, 4, 8)
    max_frames: int = 5
    gate: threading.Event = field(default_factory=threading.Event)
    calls: Counter[str] = field(default_factory=Counter)
    steps: list[tuple[int, int]] = field(default_factory=list)
    _faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.gate.set()

    def fail(self, where: str, times: int = 1) -> None:
        """Lets the next calls raise: init_state, insert, resize, step or fetch."""
        self._faults[where] = times

    def init_state(self, batch_size: int) -> FakeState:
        self._count("init_state")
        return FakeState(np.zeros(batch_size, np.int64), np.zeros(batch_size, np.int64))

    def insert(self, state: FakeState, row: int, seed: int) -> FakeState:
        seeds, frames = _use_up(state)
        self._count("insert")
        seeds[row], frames[row] = seed, 0
        return FakeState(seeds, frames)

    def resize(self, state: FakeState, rows: Sequence[int], batch_size: int) -> FakeState:
        seeds, frames = _use_up(state)
        self._count("resize")
        index = np.zeros(batch_size, np.int64)
        index[: len(rows)] = rows
        return FakeState(seeds[index], frames[index])

    def step(self, state: FakeState, inputs: StepInputs) -> tuple[FakeState, FakeAudio]:
        seeds, frames = _use_up(state)
        if not 1 <= inputs.frames <= self.max_frames:
            raise ValueError(f"a step of {inputs.frames} frames")
        self.gate.wait()
        self._count("step")
        self.steps.append((len(seeds), inputs.frames))
        pcm = np.full((len(seeds), inputs.frames, FRAME_SAMPLES, 2), -1, np.int16)
        for row in np.flatnonzero(inputs.active):
            for i in range(inputs.frames):
                pcm[row, i] = _frame(
                    int(seeds[row]),
                    int(frames[row]) + i,
                    inputs.tokens[row, i],
                    float(inputs.temperature[row, i]),
                    int(inputs.top_k[row, i]),
                )
        frames = frames + inputs.frames * inputs.active
        return FakeState(seeds, frames), FakeAudio(
            pcm.reshape(len(seeds), -1, 2), lambda: self._count("fetch")
        )

    def _count(self, where: str) -> None:
        self.calls[where] += 1
        if self._faults[where] > 0:
            self._faults[where] -= 1
            raise DeviceError(f"injected into {where}")


def heard(seed: int, frames: int, timeline: Timeline | None = None) -> Pcm:
    """What a stream of its own must sound like, int16 [frames * 1920, 2]."""
    rows = LOOKAHEAD_FRAMES + frames
    tokens, temperature, top_k = read_rows(timeline or styled(), 0, rows)
    made = [
        np.broadcast_to(
            _frame(seed, i, tokens[i], float(temperature[i]), int(top_k[i])), (FRAME_SAMPLES, 2)
        )
        for i in range(LOOKAHEAD_FRAMES, rows)
    ]
    return np.concatenate([*made, np.zeros((0, 2), np.int16)])


def styled(style: int = 0, temperature: float = 1.3, top_k: int = 40) -> Timeline:
    controls = Controls(temperature=temperature, top_k=top_k)
    return constant(np.full(STYLE_LEVELS, style, np.int32), controls)


def read_rows(
    timeline: Timeline, first: int, count: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Tokens int32 [count, 144], temperature float32 [count] and top-k int32 [count]."""
    tokens = np.empty((count, SIZE), np.int32)
    temperature, top_k = np.empty(count, np.float32), np.empty(count, np.int32)
    timeline.read(first, tokens, temperature, top_k)
    return tokens, temperature, top_k


def _frame(
    seed: int, index: int, tokens: NDArray[np.int32], temperature: float, top_k: int
) -> NDArray[np.int16]:
    """int16 [2]: a number for who plays, and one for when; a warm-up frame is silent."""
    if index < LOOKAHEAD_FRAMES:
        return np.zeros(2, np.int16)
    mixed = (
        seed * 7919 + int(tokens.astype(np.int64).sum()) * 31 + top_k + round(temperature * 1000)
    )
    return np.array([1 + mixed % 30_000, 1 + index % 30_000], np.int16)


def _use_up(state: FakeState) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if state.used_up:
        raise DeviceError("this state was used up by an earlier call")
    state.used_up = True
    return state.seeds.copy(), state.frames.copy()


@dataclass
class Rig:
    """An engine, most often on a fake model, with its own metrics."""

    engine: Engine
    model: Any
    registry: CollectorRegistry
    deaths: list[BaseException]

    def submit(
        self,
        frames: int | None,
        *,
        seed: int = 0,
        style: Timeline | None = None,
        lead: int | None = None,
        client: str = "",
    ) -> Stream:
        spec = StreamSpec(style or styled(), seed, frames, lead_frames=lead, client=client)
        return self.engine.submit(spec, asyncio.get_running_loop())

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"magenta_bento_{name}", labels) or 0.0

    async def at_rest(self) -> None:
        """Waits until nobody plays or waits."""
        await until(lambda: self.engine.active == 0 and self.engine.waiting == 0)


@contextmanager
def rig(model: Model, *, queue_bound: int = 1_000, started: bool = True) -> Iterator[Rig]:
    """An engine that has ended, with its thread, when the context is left."""
    registry = CollectorRegistry()
    deaths: list[BaseException] = []
    engine = Engine(
        model, queue_bound=queue_bound, metrics=Metrics(registry), on_death=deaths.append
    )
    if started:
        engine.start()
    try:
        yield Rig(engine, model, registry, deaths)
    finally:
        if isinstance(model, FakeModel):
            model.gate.set()
        engine.stop()
        if engine._thread.is_alive():
            raise RuntimeError("the device thread still runs")


async def read(stream: Stream) -> Pcm:
    """All of a stream, int16 [N, 2]."""
    async with asyncio.timeout(HANG_S):
        blocks = [block async for block in stream.blocks()]
    if any(len(block) == 0 or len(block) % FRAME_SAMPLES for block in blocks):
        raise ValueError("a block is not whole frames")
    return np.concatenate([*blocks, np.zeros((0, 2), np.int16)])


async def until(condition: Callable[[], object]) -> None:
    """Polls a condition that another thread brings about."""
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110  # threads don't set asyncio's events
            await asyncio.sleep(0.001)
