"""What the ``plan`` command is told, and what else could be tried.

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
from magenta_bento.planning.fleet import Demand, Fleet, Server, Target, smallest
from magenta_bento.planning.gpus import GPUS, Gpu
from magenta_bento.planning.workload import WORKLOADS, Workload


@dataclass(frozen=True)
class Computed:
    """A device that nobody has measured.

    Attributes:
      gpu: Which.
      work: The model that it plays.
      slots: ``MAX_STREAMS``; None for as many as the server would take.
    """

    gpu: Gpu
    work: Workload
    slots: int | None = None

    @cached_property
    def frame_s(self) -> tuple[float, ...]:
        """Seconds of a frame while 1, 2, … all slots are taken.

        Raises:
          Unplannable: So many streams don't fit into its memory.
        """
        most = roofline.streams_in_memory(self.gpu, self.work)
        slots = self.slots or roofline.slots(self.gpu, self.work)
        if slots > most:
            raise Unplannable(
                f"{slots} slots of {self.work.model} don't fit into the memory of one"
                f" {self.gpu.title}: at most {most} do"
            )
        batches = (roofline.batch_for(playing, slots) for playing in range(1, slots + 1))
        return tuple(roofline.frame_time(self.gpu, self.work, b).total_s for b in batches)

    def __str__(self) -> str:
        return f"{self.work.model} on {self.gpu.title}"


@dataclass(frozen=True)
class Measured:
    """A device that somebody has measured with all slots taken.

    With fewer taken it is counted as no faster, which errs on the safe side.

    Attributes:
      full_frame_s: Seconds of a frame, as ``magenta_bento_step_frame_seconds`` tells.
      slots: How many.
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
      demand: What is asked for.
      target: What has to hold.
      price_per_hour: Of one server, in any currency; None if nobody said.
    """

    device: Computed | Measured
    frames_per_step: int
    queue_bound: int
    demand: Demand
    target: Target
    price_per_hour: float | None = None

    @property
    def fleet(self) -> Fleet:
        """The smallest that does it.

        Raises:
          Unplannable: None does.
        """
        server = Server(self.device.frame_s, self.frames_per_step)
        return smallest(server, self.demand, self.target)


def alternatives(case: Case) -> Iterator[tuple[str, Case]]:
    """What could be changed about a case, one thing at a time, and the case it makes."""
    device = case.device
    if isinstance(device, Computed):
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
