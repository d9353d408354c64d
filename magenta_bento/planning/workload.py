"""What one frame of each model costs a GPU, counted in the graph that the server compiles.

``tests/graph_costs.py`` traces that graph without running it, and a test holds these figures
equal to what it counts; ``docs/capacity.md`` says how.

Invariant: weights are read once a frame however many streams play, and all other costs occur once
a stream, so that the cost of a frame is linear in the number of streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from magenta_bento.planning.gpus import Precision


@dataclass(frozen=True)
class Part:
    """A part of the model, one after the other in each frame.

    Attributes:
      name: "temporal" runs once a frame, "depth" once for each of the 12 codes, "codec" once.
      precision: The number format of its products on a GPU.
      weight_bytes: Parameters read for a frame; those that it reads twice count twice.
      activation_bytes: What the matrix products and convolutions of one stream read and write
        beside parameters, the attention's keys and values included.
      state_bytes: What one stream keeps from one frame to the next.
      flops: Operations for one stream; a multiplication and an addition count two.
    """

    name: str
    precision: Precision
    weight_bytes: int
    activation_bytes: int
    state_bytes: int
    flops: int

    @property
    def stream_bytes(self) -> int:
        """Memory traffic that each stream adds to a frame: its state is read and written."""
        return self.activation_bytes + 2 * self.state_bytes


@dataclass(frozen=True)
class Workload:
    """One model with a bfloat16 language model, as on a GPU.

    Attributes:
      model: Its name.
      parameter_bytes: Device memory that its parameters take.
      kernels: The fewest kernels that a frame starts.
      parts: The parts of the model, in the order in which they run.
    """

    model: str
    parameter_bytes: int
    kernels: int
    parts: tuple[Part, ...]

    @property
    def state_bytes(self) -> int:
        """Device memory that one stream keeps."""
        return sum(part.state_bytes for part in self.parts)


# Both models have the same codec. It makes left and right in turn with the same last layers,
# whose weights are therefore read twice.
_CODEC = Part(
    name="codec",
    precision=Precision.TF32,
    weight_bytes=170_018_068,
    activation_bytes=32_740_168,
    state_bytes=4_632_366,
    flops=3_812_557_272,
)

WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "mrt2_small": Workload(
            model="mrt2_small",
            parameter_bytes=614_875_400,
            kernels=1_306,
            parts=(
                Part(
                    name="temporal",
                    precision=Precision.BFLOAT16,
                    weight_bytes=365_395_968,
                    activation_bytes=4_962_944,
                    state_bytes=4_031_610,
                    flops=369_524_736,
                ),
                Part(
                    name="depth",
                    precision=Precision.BFLOAT16,
                    weight_bytes=377_487_360,
                    activation_bytes=1_789_248,
                    state_bytes=0,
                    flops=378_445_824,
                ),
                _CODEC,
            ),
        ),
        "mrt2_base": Workload(
            model="mrt2_base",
            parameter_bytes=4_969_203_976,
            kernels=2_234,
            parts=(
                Part(
                    name="temporal",
                    precision=Precision.BFLOAT16,
                    weight_bytes=4_531_912_704,
                    activation_bytes=16_575_104,
                    state_bytes=12_289_194,
                    flops=4_544_692_224,
                ),
                Part(
                    name="depth",
                    precision=Precision.BFLOAT16,
                    weight_bytes=1_912_602_624,
                    activation_bytes=6_960_384,
                    state_bytes=0,
                    flops=1_916_436_480,
                ),
                _CODEC,
            ),
        ),
    }
)
