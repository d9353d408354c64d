"""Models in BentoML's model store: what makes them a part of a Bento, and of its image.

``magenta-bento models pack`` puts a model there, in upstream's layout. ``bentoml build`` takes it
along when ``MAGENTA_MODEL`` names it, and in the container BentoML's store is the Bento's own.

Invariant: what is in the store is whole; BentoML keeps nothing of a model that was not packed to
its end.
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

    Returns:
      Its tag there.

    Raises:
      WeightsError: A file is missing or damaged.
    """
    import bentoml

    if faults := files.faults():
        shown = ", ".join(f"{path} ({fault})" for path, fault in faults.items())
        raise WeightsError(f"{files.name} can't be packed: {shown}. {remedy(files.name)}")
    with bentoml.models.create(PACKED_PREFIX + files.name) as packed:
        for place, path in files.by_place.items():
            target = Path(packed.path) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            say(f"{place}: {path.stat().st_size / 1e6:,.1f} MB")
            shutil.copyfile(path, target)
        return str(packed.tag)


def packed_model(name: str) -> BentoModel | None:
    """What a service names so that its Bento holds a model; None if it was not packed."""
    from bentoml.models import BentoModel

    if name not in TRAINED or packed_root(name) is None:
        return None
    return BentoModel(f"{PACKED_PREFIX}{name}:latest")
