"""The GPUs that can be planned for, as their maker's data sheets give them.

Invariant: figures are of dense arithmetic. NVIDIA prints tensor rates with structured sparsity
for the L4 and the H200; the figures here are half of those, because our models are not sparse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Precision(StrEnum):
    """The number format that a part of the model is multiplied in."""

    BFLOAT16 = "bfloat16"
    # JAX's default for float32 on GPUs that have it (JAX documentation, "Matmul precision").
    TF32 = "TF32"


@dataclass(frozen=True)
class Gpu:
    """One GPU, by its data sheet.

    Attributes:
      name: Its name in ``plan --gpu``.
      title: Its name for people.
      memory_bytes: The size of its own memory.
      bytes_per_s: Peak memory bandwidth.
      flops_per_s: Peak dense tensor rate, by precision.
      data_sheet: The address that the figures are from.
    """

    name: str
    title: str
    memory_bytes: float
    bytes_per_s: float
    flops_per_s: Mapping[Precision, float]
    data_sheet: str


def _gpu(
    name: str,
    title: str,
    *,
    memory_gb: float,
    gb_per_s: float,
    bfloat16_tflops: float,
    tf32_tflops: float,
) -> Gpu:
    rates = {Precision.BFLOAT16: bfloat16_tflops * 1e12, Precision.TF32: tf32_tflops * 1e12}
    sheet = f"https://www.nvidia.com/en-us/data-center/{name.split('-')[0]}/"
    return Gpu(name, title, memory_gb * 1e9, gb_per_s * 1e9, MappingProxyType(rates), sheet)


_A100 = {"bfloat16_tflops": 312, "tf32_tflops": 156}

GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            _gpu("l4", "L4", memory_gb=24, gb_per_s=300, bfloat16_tflops=121, tf32_tflops=60),
            _gpu("a100-40", "A100 40 GB", memory_gb=40, gb_per_s=1_555, **_A100),
            _gpu("a100-80", "A100 80 GB", memory_gb=80, gb_per_s=2_039, **_A100),
            _gpu(
                "h200", "H200", memory_gb=141, gb_per_s=4_800, bfloat16_tflops=989, tf32_tflops=494
            ),
        )
    }
)
