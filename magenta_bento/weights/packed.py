"""Models in BentoML's model store, from which a Bento and its image include them.

``magenta-bento models pack`` copies a model to the store, in upstream's layout. ``bentoml build``
includes it in the Bento when ``MAGENTA_MODEL`` names it. In a container, the store is the Bento's
own.

Invariant: a model in the store is whole, because BentoML discards one whose copying failed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from magenta_bento.errors import WeightsError
from magenta_bento.weights.catalog import (
    PACKED_PREFIX,
    TRAINED,
    ModelFiles,
    packed_root,
    remedy,
)

if TYPE_CHECKING:
    from bentoml.models import BentoModel


def pack(files: ModelFiles, say: Callable[[str], None]) -> str:
    """Copies a model into BentoML's model store.

    Args:
      files: The model.
      say: Receives one line for each file that is copied.

    Returns:
      The tag of the copy.

    Raises:
      WeightsError: A file is missing or damaged.
    """
    import bentoml

    if faults := files.faults():
        reasons = ", ".join(f"{path} ({fault})" for path, fault in faults.items())
        raise WeightsError(f"{files.name} can't be packed: {reasons}. {remedy(files.name)}")
    with bentoml.models.create(PACKED_PREFIX + files.name) as packed:
        for relative_path, path in files.by_relative_path.items():
            target = Path(packed.path) / relative_path
            target.parent.mkdir(parents=True, exist_ok=True)
            say(f"{relative_path}: {path.stat().st_size / 1e6:,.1f} MB")
            shutil.copyfile(path, target)
        return str(packed.tag)


def packed_model(name: str) -> BentoModel | None:
    """A packed model, for a service to name so that its Bento includes it; None if not packed."""
    from bentoml.models import BentoModel

    if name not in TRAINED or packed_root(name) is None:
        return None
    return BentoModel(f"{PACKED_PREFIX}{name}:latest")
