"""What a safetensors file says it holds, read from its header alone.

A file is 8 bytes (the header's length, little-endian), the header (JSON: each tensor's dtype,
shape and place), then the tensors' bytes. Checking 10 GB of weights so costs one small read.

Invariant: a file whose size isn't exactly what its header promises is never described; it was
cut short or is something else.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from magenta_bento.errors import WeightsError

_LENGTH = struct.Struct("<Q")
# The safetensors library's own bound; a larger length is some other file's first 8 bytes.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
      shape: Its dimensions.
      dtype: Its element type as safetensors writes it ("F32", "BF16").
    """

    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a safetensors file by name, without reading their bytes.

    Raises:
      WeightsError: The file can't be read, isn't safetensors, or was cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH.size)
            if len(start) < _LENGTH.size:
                raise WeightsError(f"{path} is {size} bytes long: it was cut short")
            (length,) = _LENGTH.unpack(start)
            if length > _MAX_HEADER_BYTES:
                raise WeightsError(f"{path} is not a safetensors file")
            raw = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror}") from None
    if len(raw) < length:
        raise WeightsError(f"{path} is {size} bytes long: it was cut short within its header")
    entries, data_bytes = _parse(path, raw)
    if (promised := _LENGTH.size + length + data_bytes) != size:
        raise WeightsError(f"{path} is {size} bytes long, its header promises {promised}")
    return entries


def _parse(path: Path, raw: bytes) -> tuple[dict[str, TensorEntry], int]:
    """The entries, and how many bytes of tensors follow the header."""
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {
            name: TensorEntry(tuple(int(d) for d in entry["shape"]), str(entry["dtype"]))
            for name, entry in header.items()
        }
        ends = (int(entry["data_offsets"][1]) for entry in header.values())
        return entries, max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise WeightsError(f"{path} is not a safetensors file") from None
