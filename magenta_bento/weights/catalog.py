"""Which files a model consists of, where they lie, and which model is served.

Upstream's ``mrt`` command and this package share one layout, so that files fetched by either
serve both::

    $MAGENTA_HOME/magenta-rt-v2/checkpoints/<name>.safetensors
    $MAGENTA_HOME/magenta-rt-v2/resources/musiccoca/*

The demo lies in this package, in the same layout, and so does in BentoML's model store what was
packed for a Bento (``weights/packed.py``).

Invariant: a model is only ever chosen when each of its files is there and whole.
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

# Best first: the order in which ``auto`` looks.
TRAINED = ("mrt2_base", "mrt2_small")
DEMO = "demo"
NAMES = (*TRAINED, DEMO)

# One file a role; the names are upstream's.
MUSICCOCA_FILES = (
    "spm.model",
    "text_encoder.tflite",
    "audio_preprocessor.tflite",
    "music_encoder.tflite",
    "pretrained_vector_quantizer.tflite",
    "mapper.tflite",
)

PACKED_PREFIX = "magenta-"  # of names in BentoML's model store

_CHECKPOINTS = Path("checkpoints")
_MUSICCOCA = Path("resources") / "musiccoca"
_DEMO_ROOT = Path(__file__).parent / DEMO

_LFS_POINTER = b"version https://git-lfs"  # what `git clone` leaves where git-lfs is absent
_TFLITE_MAGIC = b"TFL3"  # bytes 4 to 8 of every LiteRT model


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, there or not.

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
        return (self.checkpoint, *(self.musiccoca_dir / name for name in MUSICCOCA_FILES))

    @property
    def by_place(self) -> Mapping[Path, Path]:
        """Each file, by its place in upstream's layout."""
        styles = {_MUSICCOCA / name: self.musiccoca_dir / name for name in MUSICCOCA_FILES}
        return {_CHECKPOINTS / f"{self.name}.safetensors": self.checkpoint, **styles}

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the files that are there."""
        return sum(path.stat().st_size for path in self.all if path.is_file())

    def faults(self) -> Mapping[Path, str]:
        """Each file that can't be used, with why ("missing", "empty", "incomplete", …)."""
        return {path: fault for path in self.all if (fault := fault_of(path)) is not None}

    def missing(self) -> list[Path]:
        """The files that are absent or not whole."""
        return list(self.faults())


def fault_of(path: Path) -> str | None:
    """Why a file of a model can't be used; None when it is there and whole."""
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
    return _WHOLE.get(path.suffix, _accept)(path, head)


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
    """Where the model lies that was packed last under this name; None if none was."""
    if "bentoml" not in sys.modules and not _bentoml_models().is_dir():
        return None  # without the second that it takes to import BentoML

    import bentoml
    from bentoml.exceptions import NotFound

    try:
        return Path(bentoml.models.get(f"{PACKED_PREFIX}{name}:latest").path)
    except NotFound:
        return None


def home(settings: Settings) -> Path:
    """The root of upstream's layout, which mirrors the layout of the model hub's repository."""
    return settings.magenta_home.expanduser() / "magenta-rt-v2"


def choose(settings: Settings) -> ModelFiles:
    """The model to serve.

    Raises:
      WeightsError: A file of the model that ``MAGENTA_MODEL`` names is missing or damaged; the
        message lists every such file, and the command that mends it.
    """
    wanted = settings.magenta_model
    for name in NAMES if wanted == "auto" else (wanted,):
        files = locate(name, settings)
        faults = files.faults()
        if not faults:
            return files
    root = _root(name, settings)
    shown = ", ".join(f"{path.relative_to(root)} ({fault})" for path, fault in faults.items())
    raise WeightsError(f"{name} can't be served from {root}: {shown}. {remedy(name)}")


def _bentoml_models() -> Path:
    """BentoML's store outside of a Bento, as BentoML itself finds it."""
    # bentoml: importing it, to ask, takes seconds.
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"


def remedy(name: str) -> str:
    """One sentence: the exact command that makes a model's files whole."""
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


def _whole_safetensors(path: Path, _head: bytes) -> str | None:
    try:
        read_header(path)
    except WeightsError:
        return "incomplete"
    return None


def _whole_tflite(_path: Path, head: bytes) -> str | None:
    return None if head[4:8] == _TFLITE_MAGIC else "incomplete"


def _accept(_path: Path, _head: bytes) -> str | None:
    return None


_WHOLE: Mapping[str, Callable[[Path, bytes], str | None]] = MappingProxyType(
    {".safetensors": _whole_safetensors, ".tflite": _whole_tflite}
)
