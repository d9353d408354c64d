"""The model on a JAX device: parameters, compiled functions, and nothing that changes.

Every function is compiled ahead of time for every batch size, so that no request ever waits
for a compiler. State goes in and comes out; its buffers are donated and reused in place.

Invariant: as ``protocol`` says, and for float32 the RVQ codes of a row equal those of
upstream's ``MagentaRT2System.generate`` with the same conditioning and key.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sequence_layers.jax as sl
from magenta_rt.jax import depthformer
from numpy.typing import NDArray

from magenta_bento.audio.formats import CHANNELS, FRAME_SAMPLES
from magenta_bento.model import graph, params
from magenta_bento.model.architecture import CONDITIONING_SIZE, Architecture, DType
from magenta_bento.model.protocol import State, StepInputs
from magenta_bento.weights.catalog import ModelFiles


@dataclass(frozen=True)
class DeviceAudio:
    """A step's audio on the device, with more room than frames."""

    pcm: jax.Array  # int16 [B, max_frames * 1920, 2]
    frames: int

    def fetch(self) -> NDArray[np.int16]:
        return np.asarray(self.pcm)[:, : self.frames * FRAME_SAMPLES]


@dataclass(frozen=True)
class Compiled:
    """The functions of one batch size."""

    init: Any
    insert: Any
    step: Any
    copy: Any
    choose: Any


class JaxModel:
    """See :class:`magenta_bento.model.protocol.Model`.

    Args:
      architecture: What to build.
      files: Where its checkpoint lies.
      max_frames: The most frames of one dispatch; longer ones cost less overhead and make
        joining, leaving and steering wait longer.
      compute_dtype: What the language model computes in.
      exact_codec: See :func:`magenta_bento.model.graph.sampler_config`.
    """

    def __init__(
        self,
        architecture: Architecture,
        files: ModelFiles,
        *,
        max_frames: int,
        compute_dtype: DType,
        exact_codec: bool,
    ) -> None:
        self.architecture = architecture
        self.max_frames = max_frames
        self._sampler = graph.sampler_config(
            architecture, compute_dtype, exact_codec=exact_codec
        ).make()
        decoder = architecture.depthformer_config(compute_dtype).decoder
        self._params = params.load(
            files.checkpoint,
            reserved=decoder.num_reserved_tokens,
            levels=decoder.num_codebooks,
            codebook_size=decoder.codebook_size,
            dtype=compute_dtype,
        )
        self.parameter_bytes = params.size_bytes(self._params)
        self._compiled: dict[int, Compiled] = {}
        self._moves: dict[tuple[int, int], Any] = {}

    @property
    def batch_sizes(self) -> list[int]:
        return sorted(self._compiled)

    def compile(self, batch_sizes: Sequence[int]) -> None:
        """Compiles for further batch sizes, in parallel; XLA leaves Python's lock meanwhile."""
        with ThreadPoolExecutor(thread_name_prefix="compile") as pool:
            new = [size for size in batch_sizes if size not in self._compiled]
            self._compiled |= dict(zip(new, pool.map(self._compile, new), strict=True))
            # Larger steps go by way of the sizes between: a program a neighbour is enough.
            neighbours = list(itertools.pairwise(self.batch_sizes))
            moves = [*neighbours, *((large, small) for small, large in neighbours)]
            new_moves = [move for move in moves if move not in self._moves]
            self._moves |= dict(
                zip(new_moves, pool.map(self._compile_move, new_moves), strict=True)
            )

    def forget(self, batch_sizes: Sequence[int]) -> None:
        """Drops batch sizes and their programs; the neighbours left must be compiled anew."""
        for size in batch_sizes:
            self._compiled.pop(size, None)
        self.compile([])

    def init_state(self, batch_size: int) -> State:
        return self._compiled[batch_size].init(self._params, np.uint32(0))

    def insert(self, state: State, row: int, seed: int) -> State:
        compiled = self._compiled[_batch_size(state)]
        return compiled.insert(self._params, state, np.int32(row), np.uint32(seed))

    def resize(self, state: State, rows: Sequence[int], batch_size: int) -> State:
        old = self.batch_sizes.index(_batch_size(state))
        new = self.batch_sizes.index(batch_size)
        path = self.batch_sizes[old : new + 1] if new > old else self.batch_sizes[new : old + 1]
        for move in itertools.pairwise(path if new > old else reversed(path)):
            index = np.zeros(move[1], np.int32)  # rows that nobody owns repeat row 0
            index[: len(rows)] = rows
            state = self._moves[move](state, index)
            rows = range(len(rows))
        return state

    def step(self, state: State, inputs: StepInputs) -> tuple[State, DeviceAudio]:
        compiled = self._compiled[len(inputs.active)]
        # Nearly every step advances every row: only the others pay for a copy of the state.
        before = None if inputs.active.all() else compiled.copy(state)
        state, pcm = compiled.step(
            self._params,
            state,
            self._with_room(inputs.tokens),
            self._with_room(inputs.temperature),
            self._with_room(inputs.top_k),
            np.int32(inputs.frames),
        )
        pcm.copy_to_host_async()
        if before is not None:
            state = compiled.choose(state, before, inputs.active)
        return state, DeviceAudio(pcm, inputs.frames)

    def _with_room(self, per_frame: NDArray[Any]) -> NDArray[Any]:
        """[B, F, …] made as long as the longest step, for which the program was compiled."""
        missing = self.max_frames - per_frame.shape[1]
        if not missing:
            return per_frame
        return np.pad(per_frame, [(0, 0), (0, missing), *[(0, 0)] * (per_frame.ndim - 2)])

    @functools.cached_property
    def state_bytes(self) -> int:
        """Device bytes of one stream's state."""
        leaves = jax.tree.leaves(jax.eval_shape(self._init_row, self._params, np.uint32(0)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    # What follows is traced, not run.

    def _init_row(self, stored: params.Params, seed: jax.Array) -> State:
        """A fresh row at batch 1; seed 0 gives upstream's own initial state."""
        return self._sampler.apply(
            params.restore(stored),
            1,
            jax.ShapeDtypeStruct([CONDITIONING_SIZE], jnp.int32),
            constants={},
            training=False,
            rngs={"random": jax.random.PRNGKey(seed)},
            method=self._sampler.get_initial_state,
        )

    def _init(self, stored: params.Params, seed: jax.Array, batch_size: int) -> State:
        row = self._init_row(stored, seed)
        return jax.tree.map(lambda a: jnp.repeat(a, batch_size, axis=0), row)

    def _insert(
        self, stored: params.Params, state: State, row: jax.Array, seed: jax.Array
    ) -> State:
        fresh = self._init_row(stored, seed)
        return jax.tree.map(
            lambda a, r: jax.lax.dynamic_update_slice_in_dim(a, r.astype(a.dtype), row, 0),
            state,
            fresh,
        )

    def _step(
        self,
        stored: params.Params,
        state: State,
        tokens: jax.Array,
        temperature: jax.Array,
        top_k: jax.Array,
        frames: jax.Array,
    ) -> tuple[State, jax.Array]:
        def advance(i: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, pcm = carry
            constants = {
                depthformer.TEMPERATURE_CONSTANT: _at(temperature, i),
                depthformer.TOP_K_CONSTANT: _at(top_k, i),
            }
            frame, state, _ = self._sampler.apply(
                params.restore(stored),  # outside the loop it would be a copy of them all
                x=sl.Sequence.from_values(_at(tokens, i)[:, None]),
                state=state,
                constants=constants,
                training=False,
                method=self._sampler.step_with_emits,
            )
            start = (0, i * FRAME_SAMPLES, 0)
            return state, jax.lax.dynamic_update_slice(pcm, frame.values, start)

        room = (tokens.shape[0], self.max_frames * FRAME_SAMPLES, CHANNELS)
        # The number of frames is data, not shape: one program serves every length of dispatch.
        start = (state, jnp.zeros(room, jnp.int16))
        stepped: tuple[State, jax.Array] = jax.lax.fori_loop(0, frames, advance, start)
        return stepped

    def _compile(self, size: int) -> Compiled:
        init = jax.jit(functools.partial(self._init, batch_size=size))
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        state = jax.eval_shape(init, self._params, seed)
        step = jax.jit(self._step, donate_argnums=1).lower(
            self._params,
            state,
            jax.ShapeDtypeStruct((size, self.max_frames, CONDITIONING_SIZE), jnp.int32),
            jax.ShapeDtypeStruct((size, self.max_frames), jnp.float32),
            jax.ShapeDtypeStruct((size, self.max_frames), jnp.int32),
            scalar,
        )
        insert = jax.jit(self._insert, donate_argnums=1).lower(self._params, state, scalar, seed)
        active = jax.ShapeDtypeStruct((size,), jnp.bool_)
        return Compiled(
            init=init.lower(self._params, seed).compile(),
            insert=insert.compile(),
            step=step.compile(),
            copy=jax.jit(_copy).lower(state).compile(),
            choose=jax.jit(_choose, donate_argnums=0).lower(state, state, active).compile(),
        )

    def _compile_move(self, sizes: tuple[int, int]) -> Any:
        old, new = sizes
        init = functools.partial(self._init, batch_size=old)
        state = jax.eval_shape(init, self._params, jax.ShapeDtypeStruct((), jnp.uint32))

        def move(state: State, index: jax.Array) -> State:
            return jax.tree.map(lambda a: jnp.take(a, index, axis=0), state)

        index = jax.ShapeDtypeStruct((new,), jnp.int32)
        return jax.jit(move).lower(state, index).compile()


def _copy(state: State) -> State:
    return jax.tree.map(jnp.copy, state)


def _choose(after: State, before: State, active: jax.Array) -> State:
    """The active rows, bool [B], of one state and the others of another."""

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(active.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(chosen, after, before)


def _at(per_frame: jax.Array, i: jax.Array) -> jax.Array:
    """What frame i of a step reads: [B, …] of [B, F, …]."""
    frame: jax.Array = jax.lax.dynamic_index_in_dim(per_frame, i, axis=1, keepdims=False)
    return frame


def _batch_size(state: State) -> int:
    return int(jax.tree.leaves(state)[0].shape[0])
