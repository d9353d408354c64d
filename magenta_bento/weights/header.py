"""What a safetensors file says it holds, read from its header alone.

The safetensors library reads the header and checks it against the file's size; the tensors'
bytes stay on disk, so that checking 10 GB of weights costs one small read.

Invariant: a file whose size isn't exactly what its header promises is never described; it was
cut short or is something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from magenta_bento.errors import WeightsError


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
        size_bytes = path.stat().st_size
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: TensorEntry(tuple(entry.get_shape()), entry.get_dtype())
                for name, entry in slices.items()
            }
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WeightsError(
            f"{path}, {size_bytes} bytes long, is not a whole safetensors file: {error}"
        ) from None
