"""What a frame costs, counted in the graph that the server compiles.

    PYTHONPATH=. python tests/graph_costs.py mrt2_small

The optimised step is traced, not run, for a batch of a large prime that divides no size of the
model. So an array belongs to the streams if its size is a multiple of that prime; any other is
read once for all of them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import sequence_layers.jax as sl
from jax.extend import core
from magenta_rt.jax import depthformer

from magenta_bento.model import graph, params
from magenta_bento.model.architecture import ARCHITECTURES, CONDITIONING_SIZE
from magenta_bento.planning.gpus import Precision
from magenta_bento.planning.workload import Part, Workload
from tools.demo_model import checkpoint

COMPUTE_DTYPE = jnp.bfloat16  # the server's on a GPU
BATCH = 10_007  # nothing is computed, so it costs nothing

PRODUCTS = {"dot_general", "conv_general_dilated"}
# XLA fuses what works element by element into its neighbours; each of these is a kernel at least.
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_or", "argmax", "cumsum", "sort"}
OTHER_KERNELS = {"gather", "scatter-add", "fft", "threefry2x32"}
PARTS = {
    "temporal": Precision.BFLOAT16,
    "depth": Precision.BFLOAT16,
    "codec": Precision.TF32,
}


@dataclass
class Count:
    """Of one part: what its products compute and move.

    Attributes:
      flops: Of a stream: a multiplication and an addition count two.
      weight_bytes: Read for all streams together.
      activation_bytes: Of a stream: read and written.
    """

    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0

    def add(self, equation: Any, times: int) -> None:
        """A matrix product or a convolution that runs so often."""
        (out,) = (v.aval for v in equation.outvars)
        if _of_streams(out):
            sums = math.prod(out.shape) // BATCH
            self.flops += times * 2 * _contracted(equation) * sums
        for array in (*(v.aval for v in equation.invars), out):
            if _of_streams(array):
                self.activation_bytes += times * _bytes(array) // BATCH
            else:
                self.weight_bytes += times * _bytes(array)


class Step:
    """The optimised step of a model whose parameters exist as shapes alone."""

    def __init__(self, name: str) -> None:
        self.architecture = ARCHITECTURES[name]
        self.sampler = graph.sampler_config(self.architecture, COMPUTE_DTYPE).make()
        self.parameters = jax.eval_shape(self._stored, jax.random.PRNGKey(0))

    @property
    def parameter_bytes(self) -> int:
        return sum(_bytes(leaf) for leaf in jax.tree.leaves(self.parameters))

    @cached_property
    def state(self) -> Any:
        return jax.eval_shape(
            lambda stored: self.sampler.apply(
                params.restore(stored),
                BATCH,
                jax.ShapeDtypeStruct([CONDITIONING_SIZE], jnp.int32),
                constants={},
                training=False,
                rngs={"random": jax.random.PRNGKey(0)},
                method=self.sampler.get_initial_state,
            ),
            self.parameters,
        )

    def trace(self) -> core.Jaxpr:
        def step(stored: Any, state: Any, tokens: Any, temperature: Any, top_k: Any) -> Any:
            constants = {
                depthformer.TEMPERATURE_CONSTANT: temperature,
                depthformer.TOP_K_CONSTANT: top_k,
            }
            audio, state, _ = self.sampler.apply(
                params.restore(stored),
                x=sl.Sequence.from_values(tokens[:, None]),
                state=state,
                constants=constants,
                training=False,
                method=self.sampler.step_with_emits,
            )
            return audio, state

        return jax.make_jaxpr(step)(
            self.parameters,
            self.state,
            jax.ShapeDtypeStruct((BATCH, CONDITIONING_SIZE), jnp.int32),
            jax.ShapeDtypeStruct((BATCH,), jnp.float32),
            jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        ).jaxpr

    def _stored(self, key: jax.Array) -> params.Params:
        decoder = self.architecture.depthformer_config(COMPUTE_DTYPE).decoder
        flat = {
            tuple(name.split("/")): value
            for name, value in checkpoint.initial(self.architecture, key).items()
        }
        ready = params.prepare(
            flat,
            reserved=decoder.num_reserved_tokens,
            levels=decoder.num_codebooks,
            codebook_size=decoder.codebook_size,
        )
        return params._nest({p: params._stored(p, v, COMPUTE_DTYPE) for p, v in ready.items()})


def workload(name: str) -> Workload:
    """The model's costs."""
    step = Step(name)
    counts = {part: Count() for part in PARTS}
    kernels = 0
    for equation, scope, times in _equations(step.trace(), "", 1):
        primitive = equation.primitive.name
        if primitive in PRODUCTS | REDUCTIONS | OTHER_KERNELS:
            kernels += times
        if primitive in PRODUCTS:
            counts[_part(equation, scope)].add(equation, times)
    language_model, _, _, codec, _ = step.state
    state = {"temporal": language_model, "depth": (), "codec": codec}
    return Workload(
        model=name,
        parameter_bytes=step.parameter_bytes,
        kernels=kernels,
        parts=tuple(
            Part(
                name=part,
                precision=precision,
                weight_bytes=counts[part].weight_bytes,
                activation_bytes=counts[part].activation_bytes,
                state_bytes=sum(_bytes(a) for a in jax.tree.leaves(state[part])) // BATCH,
                flops=counts[part].flops,
            )
            for part, precision in PARTS.items()
        ),
    )


def _equations(jaxpr: core.Jaxpr, scope: str, times: int) -> Iterator[tuple[Any, str, int]]:
    """Every equation with its place in the model and how often it runs."""
    for equation in jaxpr.eqns:
        inner = f"{scope}/{equation.source_info.name_stack}"
        name = equation.primitive.name
        if name == "while":
            raise ValueError(f"{inner}: nobody knows how often this loop turns")
        bodies = [] if name in OTHER_KERNELS else list(_bodies(equation))
        if not bodies:
            yield equation, inner, times
        turns = equation.params["length"] if name == "scan" else 1
        for body in bodies:
            yield from _equations(body, inner, times * turns)


def _bodies(equation: Any) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _part(equation: Any, scope: str) -> str:
    """The codec computes in float32 alone; the language model's parts have their names."""
    if all(v.aval.dtype == jnp.float32 for v in equation.invars):
        return "codec"
    return "depth" if "/depth_body." in scope or "/to_logits_" in scope else "temporal"


def _contracted(equation: Any) -> int:
    """How many products are summed for one number of the result."""
    left, right = (v.aval for v in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        return math.prod(left.shape[axis] for axis in numbers[0][0])
    return math.prod(right.shape) // right.shape[numbers.rhs_spec[0]]


def _of_streams(shaped: Any) -> bool:
    return math.prod(shaped.shape) % BATCH == 0


def _bytes(shaped: Any) -> int:
    return math.prod(shaped.shape) * jnp.dtype(shaped.dtype).itemsize


if __name__ == "__main__":
    print(workload(sys.argv[1]))
