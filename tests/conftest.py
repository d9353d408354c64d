"""What many tests share: one running server, and one compiled demo model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from serving import COMPILE_CACHE, Server, serving

from magenta_bento.config import Settings

if TYPE_CHECKING:
    from magenta_bento.model.jax_model import JaxModel


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo model and the default settings."""
    with serving(tmp_path_factory.mktemp("server"), MAX_STREAMS="0") as running:
        yield running


@pytest.fixture(scope="session")
def demo_model() -> JaxModel:
    """The demo model with batch sizes 1 and 4, in this process."""
    from magenta_bento.model.loader import load_model
    from magenta_bento.weights.catalog import locate

    settings = Settings(max_streams=4, compile_cache=COMPILE_CACHE, frames_per_step=5)
    model, _ = load_model(settings, locate("demo", settings))
    return model
