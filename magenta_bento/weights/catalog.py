"""Which files a model consists of, where they lie, and which model is served.

Upstream's ``mrt`` command and this package share one layout, so that files fetched by either
serve both::

    $MAGENTA_HOME/magenta-rt-v2/checkpoints/<name>.safetensors
    $MAGENTA_HOME/magenta-rt-v2/resources/musiccoca/*

The demo lies in this package, in the same layout. Models that were packed for a Bento lie in
BentoML's model store (``weights/packed.py``), in the same layout too.

Invariant: a model is only chosen when each of its files is there and whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.weights.header import read_header

# Best first: ``MAGENTA_MODEL=auto`` takes the first one whose files are whole.
TRAINED = ("mrt2_base", "mrt2_small")
DEMO = "demo"
NAMES = (*TRAINED, DEMO)

# The names are upstream's.
MUSICCOCA_FILES = (
    "spm.model",
    "text_encoder.tflite",
    "audio_preprocessor.tflite",
    "music_encoder.tflite",
    "pretrained_vector_quantizer.tflite",
    "mapper.tflite",
)

PACKED_PREFIX = "magenta-"  # how the names of our models in BentoML's store begin

_CHECKPOINTS = Path("checkpoints")
_MUSICCOCA = Path("resources") / "musiccoca"
_DEMO_ROOT = Path(__file__).parent / DEMO

_LFS_POINTER = b"version https://git-lfs"  # what `git clone` leaves where git-lfs is absent
_TFLITE_MAGIC = b"TFL3"  # bytes 4 to 8 of every LiteRT model


@dataclass(frozen=True)
class ModelFiles:
    """The paths of one model's files, which need not exist.

    Attributes:
      name: One of :data:`NAMES`.
      checkpoint: The safetensors file of the language model and the codec's decoder.
      musiccoca_dir: The folder of the style encoder's six files.
    """

    name: str
    checkpoint: Path
    musiccoca_dir: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """The checkpoint, then the style encoder's files."""
        return (self.checkpoint, *(self.musiccoca_dir / name for name in MUSICCOCA_FILES))

    @property
    def by_relative_path(self) -> Mapping[Path, Path]:
        """Each file, by its path below the root of upstream's layout."""
        styles = {_MUSICCOCA / name: self.musiccoca_dir / name for name in MUSICCOCA_FILES}
        return {_CHECKPOINTS / f"{self.name}.safetensors": self.checkpoint, **styles}

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the files that exist."""
        return sum(path.stat().st_size for path in self.all if path.is_file())

    def faults(self) -> Mapping[Path, str]:
        """Each file that can't be used, with why ("missing", "empty", "incomplete", …)."""
        return {path: fault for path in self.all if (fault := fault_of(path)) is not None}

    def missing(self) -> list[Path]:
        """The files that can't be used, because they are absent or not whole."""
        return list(self.faults())


def fault_of(path: Path) -> str | None:
    """Why a file of a model can't be used; None if it can."""
    try:
        if not path.is_file():
            return "missing"
        if path.stat().st_size == 0:
            return "empty"
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if head == _LFS_POINTER:
        return "a git-lfs pointer, not the file itself"
    check = _FAULT_CHECKS.get(path.suffix)
    return check(path, head) if check else None


def locate(name: str, settings: Settings) -> ModelFiles:
    """Where a model's files are, or would be: in ``MAGENTA_HOME``, else packed.

    Raises:
      WeightsError: There is no model of that name.
    """
    if name not in NAMES:
        raise WeightsError(f"there is no model {name!r}; there are {', '.join(NAMES)}")
    root = _root(name, settings)
    return ModelFiles(name, root / _CHECKPOINTS / f"{name}.safetensors", root / _MUSICCOCA)


def packed_root(name: str) -> Path | None:
    """Where the last packed version of a model lies in BentoML's store; None if none does."""
    # To import BentoML takes a second, which is not needed while its store does not exist.
    if "bentoml" not in sys.modules and not _bentoml_models().is_dir():
        return None

    import bentoml
    from bentoml.exceptions import NotFound

    try:
        return Path(bentoml.models.get(f"{PACKED_PREFIX}{name}:latest").path)
    except NotFound:
        return None


def home(settings: Settings) -> Path:
    """The root of upstream's layout, which is that of the repository on the model hub."""
    return settings.magenta_home.expanduser() / "magenta-rt-v2"


def choose(settings: Settings) -> ModelFiles:
    """The model to serve.

    Raises:
      WeightsError: A file of the model that ``MAGENTA_MODEL`` names is missing or damaged; the
        message lists every such file, and the command that mends it.
    """
    choice = settings.magenta_model
    for name in NAMES if choice == "auto" else (choice,):
        files = locate(name, settings)
        faults = files.faults()
        if not faults:
            return files
    root = _root(name, settings)
    reasons = ", ".join(f"{path.relative_to(root)} ({fault})" for path, fault in faults.items())
    raise WeightsError(f"{name} can't be served from {root}: {reasons}. {remedy(name)}")


def _bentoml_models() -> Path:
    """The models in BentoML's store, where BentoML itself looks for them outside a Bento."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"


def remedy(name: str) -> str:
    """A sentence with the command that makes a model's files whole."""
    if name == DEMO:
        return "Reinstall magenta-bento: the demo is part of it."
    return f"Run: magenta-bento models download {name}"


def _root(name: str, settings: Settings) -> Path:
    if name == DEMO:
        return _DEMO_ROOT
    root = home(settings)
    if (root / _CHECKPOINTS / f"{name}.safetensors").exists():
        return root
    return packed_root(name) or root


def _safetensors_fault(path: Path, _head: bytes) -> str | None:
    try:
        read_header(path)
    except WeightsError:
        return "incomplete"
    return None


def _tflite_fault(_path: Path, head: bytes) -> str | None:
    return None if head[4:8] == _TFLITE_MAGIC else "incomplete"


# By file extension: what finds the fault of a file, given its path and its first bytes.
_FAULT_CHECKS: Mapping[str, Callable[[Path, bytes], str | None]] = MappingProxyType(
    {".safetensors": _safetensors_fault, ".tflite": _tflite_fault}
)
