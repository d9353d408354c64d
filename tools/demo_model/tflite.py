"""Writes small LiteRT models without TensorFlow: a graph of builtin operators, as flatbuffer.

Invariant: the same calls give the same bytes; every tensor has a static shape, and every
constant starts at a multiple of 16 bytes, as the runtime expects of a mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
BUFFER_ALIGNMENT_BYTES = 16

_TENSOR_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
}


@dataclass(frozen=True)
class Tensor:
    """A value in a graph: its index there, its static shape and its dtype."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype


class _AlignedBuilder(flatbuffers.Builder):
    """The generated code aligns a constant's bytes to 1; the runtime reads them as floats."""

    def StartVector(self, elem_size: int, num_elems: int, alignment: int) -> int:  # noqa: N802
        alignment = max(alignment, BUFFER_ALIGNMENT_BYTES)
        return super().StartVector(elem_size, num_elems, alignment)


class Graph:
    """One subgraph being written, operator by operator, in execution order."""

    def __init__(self) -> None:
        self._tensors: list[schema.TensorT] = []
        self._buffers = [schema.BufferT()]  # buffer 0 is the format's "no data"
        self._codes: list[int] = []
        self._operators: list[schema.OperatorT] = []
        self._inputs: list[Tensor] = []

    def input(self, name: str, shape: Sequence[int], dtype: type) -> Tensor:
        """Declares the next input."""
        tensor = self._tensor(name, tuple(shape), dtype, buffer=0)
        self._inputs.append(tensor)
        return tensor

    def constant(self, values: np.ndarray) -> Tensor:
        """Stores a float32 or int32 array."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        name = f"constant_{len(self._buffers) - 1}"
        return self._tensor(name, values.shape, values.dtype, buffer=len(self._buffers) - 1)

    def op(
        self,
        name: str,
        inputs: Sequence[Tensor],
        shape: Sequence[int],
        dtype: type | np.dtype = np.float32,
        **options: object,
    ) -> Tensor:
        """Appends an operator.

        Args:
          name: Of ``schema.BuiltinOperator``.
          inputs: Its operands.
          shape: The shape of its one output.
          dtype: The dtype of its one output.
          **options: Fields of the operator's options table; ``table`` names the table.
        """
        code = getattr(schema.BuiltinOperator, name)
        if code not in self._codes:
            self._codes.append(code)
        output = self._tensor(f"{name.lower()}_{len(self._operators)}", tuple(shape), dtype, 0)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs = [tensor.index for tensor in inputs]
        operator.outputs = [output.index]
        if table := options.pop("table", None):
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, str(table))
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in options.items():
                setattr(operator.builtinOptions, field, value)
        self._operators.append(operator)
        return output

    def dense(self, x: Tensor, weights: np.ndarray | Tensor, bias: np.ndarray) -> Tensor:
        """``x @ weights.T + bias``: x [rows, in], weights [out, in], bias [out]."""
        stored = weights if isinstance(weights, Tensor) else self.constant(weights)
        operands = (x, stored, self.constant(bias))
        shape = (x.shape[0], stored.shape[0])
        return self.op("FULLY_CONNECTED", operands, shape, table="FullyConnectedOptions")

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.op("ADD", (x, y), x.shape, table="AddOptions")

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        return self.op("SUB", (x, y), x.shape, table="SubOptions")

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return self.op("MUL", (x, y), x.shape, table="MulOptions")

    def gather(self, table: Tensor, rows: Tensor) -> Tensor:
        """``table[rows]`` along the first axis."""
        shape = (*rows.shape, *table.shape[1:])
        return self.op("GATHER", (table, rows), shape, table="GatherOptions")

    def reduce(self, name: str, x: Tensor, axis: int) -> Tensor:
        """SUM or MEAN over one axis, which disappears."""
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        axes = self.constant(np.array([axis], np.int32))
        return self.op(name, (x, axes), shape, table="ReducerOptions")

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        wanted = self.constant(np.array(shape, np.int32))
        options = {"table": "ReshapeOptions", "newShape": list(shape)}
        return self.op("RESHAPE", (x, wanted), shape, x.dtype, **options)

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        options = {"table": "ConcatenationOptions", "axis": axis}
        return self.op("CONCATENATION", parts, shape, parts[0].dtype, **options)

    def unary(self, name: str, x: Tensor) -> Tensor:
        """RELU, LOG or SQRT, element by element."""
        return self.op(name, (x,), x.shape)

    def convolve(self, x: Tensor, filters: np.ndarray, stride: int = 1) -> Tensor:
        """Along time: x [1, time, 1, in], filters [out, width, 1, in] to [1, less, 1, out]."""
        out, width, *_ = filters.shape
        operands = (x, self.constant(filters), self.constant(np.zeros(out, np.float32)))
        shape = (1, (x.shape[1] - width) // stride + 1, 1, out)
        options = {"padding": 1, "strideH": stride, "strideW": 1}  # 1: VALID
        return self.op("CONV_2D", operands, shape, table="Conv2DOptions", **options)

    def slice(self, x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
        """The block of the given size that starts at ``begin``."""
        bounds = [self.constant(np.array(bound, np.int32)) for bound in (begin, size)]
        return self.op("SLICE", (x, *bounds), size, x.dtype, table="SliceOptions")

    def transpose(self, x: Tensor) -> Tensor:
        """Of two dimensions."""
        axes = self.constant(np.array([1, 0], np.int32))
        shape = (x.shape[1], x.shape[0])
        return self.op("TRANSPOSE", (x, axes), shape, x.dtype, table="TransposeOptions")

    def normalise(self, x: Tensor) -> Tensor:
        """Divides by the Euclidean norm over the last axis."""
        return self.op("L2_NORMALIZATION", (x,), x.shape, table="L2NormOptions")

    def serialise(self, output: Tensor) -> bytes:
        """The file's bytes, with one output."""
        subgraph = schema.SubGraphT()
        subgraph.name = b"main"
        subgraph.tensors = self._tensors
        subgraph.inputs = [tensor.index for tensor in self._inputs]
        subgraph.outputs = [output.index]
        subgraph.operators = self._operators
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = b"magenta-bento demo"
        model.subgraphs = [subgraph]
        model.buffers = self._buffers
        model.operatorCodes = [_operator_code(code) for code in self._codes]
        builder = _AlignedBuilder(1024)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: type | np.dtype, buffer: int
    ) -> Tensor:
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = list(shape)
        tensor.type = _TENSOR_TYPES[np.dtype(dtype)]
        tensor.buffer = buffer
        self._tensors.append(tensor)
        return Tensor(len(self._tensors) - 1, shape, np.dtype(dtype))


def _operator_code(code: int) -> schema.OperatorCodeT:
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode = code
    operator_code.deprecatedBuiltinCode = min(code, 127)  # how the format grew past a byte
    operator_code.version = 1
    return operator_code
