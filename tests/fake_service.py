"""The service on a model without a device: a real server that starts in a few seconds.

For tests of what a server does around its music (keys, limits, logs, traces): every process,
route and byte on the wire is what ``magenta-bento serve`` runs, and only the model is not.
Loading the demo and compiling it is most of what a real server does at its start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType

import magenta_bento.metrics  # noqa: F401  # which has to come before prometheus_client

# isort: split
from fake_model import FakeAudio, FakeModel, FakeState

from magenta_bento.config import Settings
from magenta_bento.model.protocol import StepInputs
from magenta_bento.weights.catalog import ModelFiles
from service import MagentaBento

__all__ = ["MagentaBento"]

LOADER = "magenta_bento.model.loader"
LOAD_S = 1.0  # long enough to be seen as not ready
FRAME_S = 0.005  # what a frame of the demo takes on a CPU


class PacedModel(FakeModel):
    """A fake model that takes a device's time, so that a piece can be waited for and cut."""

    parameter_bytes = 1_000_000

    def step(self, state: FakeState, inputs: StepInputs) -> tuple[FakeState, FakeAudio]:
        time.sleep(inputs.frames * FRAME_S)
        return super().step(state, inputs)


@dataclass
class Report:
    """What :class:`magenta_bento.model.loader.LoadReport` tells, without JAX."""

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    phases_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.phases_s[name] = time.perf_counter() - started


def load_model(settings: Settings, files: ModelFiles) -> tuple[PacedModel, Report]:
    if not settings.max_streams:
        raise ValueError("a model without a device can't measure how many streams it can play")
    sizes = sorted({1, settings.max_streams})
    report = Report(files.name)
    with report.phase("parameters"):
        model = PacedModel(sizes, settings.frames_per_step)
    with report.phase("compile"):
        time.sleep(LOAD_S)
    return model, report


def device_memory() -> Mapping[str, int]:
    return {}


loader = ModuleType(LOADER)
loader.load_model = load_model
loader.device_memory = device_memory
sys.modules[LOADER] = loader  # where the service finds it once a worker starts
