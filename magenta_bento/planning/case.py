"""One case of capacity planning, and the cases beside it that differ in one thing.

Invariant: a case knows its frame times either from a GPU's roofline or from a measurement,
never from both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from magenta_bento.capacity import BATCH_SIZES, FEWEST_SLOTS
from magenta_bento.errors import Unplannable
from magenta_bento.planning import roofline
from magenta_bento.planning.fleet import Demand, Fleet, Server, Target, smallest_fleet
from magenta_bento.planning.gpus import GPUS, Gpu
from magenta_bento.planning.workload import WORKLOADS, Workload


@dataclass(frozen=True)
class ComputedDevice:
    """A device whose frame times are computed from its data sheet.

    Attributes:
      gpu: The GPU.
      work: The model that it plays.
      slots: ``MAX_STREAMS``; None for as many as a server would choose.
    """

    gpu: Gpu
    work: Workload
    slots: int | None = None

    @cached_property
    def frame_s(self) -> tuple[float, ...]:
        """Seconds of a frame while 1, 2, … all slots are taken.

        Raises:
          Unplannable: The slots don't fit into the GPU's memory.
        """
        most = roofline.streams_in_memory(self.gpu, self.work)
        slots = self.slots or roofline.default_slots(self.gpu, self.work)
        if slots > most:
            raise Unplannable(
                f"{slots} slots of {self.work.model} don't fit into the memory of one"
                f" {self.gpu.title}: at most {most} do"
            )
        batches = (roofline.batch_for(busy, slots) for busy in range(1, slots + 1))
        return tuple(roofline.frame_time(self.gpu, self.work, b).total_s for b in batches)

    def __str__(self) -> str:
        return f"{self.work.model} on {self.gpu.title}"


@dataclass(frozen=True)
class MeasuredDevice:
    """A device whose frame time was measured with all slots taken.

    With fewer slots taken it is assumed to be no faster, which errs on the safe side.

    Attributes:
      full_frame_s: Seconds of a frame, from the metric ``magenta_bento_step_frame_seconds``.
      slots: ``MAX_STREAMS`` of the measurement.
    """

    full_frame_s: float
    slots: int

    @property
    def frame_s(self) -> tuple[float, ...]:
        """Seconds of a frame while 1, 2, … all slots are taken."""
        return (self.full_frame_s,) * self.slots

    def __str__(self) -> str:
        return f"{self.slots} slots as measured"


@dataclass(frozen=True)
class Case:
    """All that a plan depends on.

    Attributes:
      device: What a server runs on.
      frames_per_step: ``FRAMES_PER_STEP``.
      queue_bound: ``MAX_QUEUE``.
      demand: The load.
      target: The service level.
      price_per_hour: The price of one server, in any currency; None if it is unknown.
    """

    device: ComputedDevice | MeasuredDevice
    frames_per_step: int
    queue_bound: int
    demand: Demand
    target: Target
    price_per_hour: float | None = None

    @property
    def fleet(self) -> Fleet:
        """The smallest fleet that meets the target.

        Raises:
          Unplannable: No fleet does.
        """
        server = Server(self.device.frame_s, self.frames_per_step)
        return smallest_fleet(server, self.demand, self.target)


def alternatives(case: Case) -> Iterator[tuple[str, Case]]:
    """Cases that differ from ``case`` in one thing, each with the words for what differs."""
    device = case.device
    if isinstance(device, ComputedDevice):
        for gpu in GPUS.values():
            if gpu != device.gpu:
                yield gpu.title, replace(case, device=replace(device, gpu=gpu, slots=None))
        for work in WORKLOADS.values():
            if work != device.work:
                yield work.model, replace(case, device=replace(device, work=work, slots=None))
        most = roofline.streams_in_memory(device.gpu, device.work)
        for slots in BATCH_SIZES:
            if FEWEST_SLOTS <= slots <= most and slots != len(device.frame_s):
                yield f"MAX_STREAMS={slots}", replace(case, device=replace(device, slots=slots))
    for frames in (1, 25):
        if frames != case.frames_per_step:
            yield f"FRAMES_PER_STEP={frames}", replace(case, frames_per_step=frames)
    target = case.target
    yield "twice the wait", replace(case, target=replace(target, wait_s=2 * target.wait_s))
    busier = replace(target, utilisation=(1 + target.utilisation) / 2)
    yield f"{busier.utilisation:.0%} busy allowed", replace(case, target=busier)
