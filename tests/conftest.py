"""What many tests share: one running server, and one compiled demo model.

Starting a server and compiling the model take longer than nearly every test. So the files that
share one run on one of pytest-xdist's workers, which starts it once; live tests make a group of
their own, because they ask whether the server is idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serving import COMPILE_CACHE, Server, serving

from magenta_bento.config import Settings

if TYPE_CHECKING:
    from magenta_bento.model.jax_model import JaxModel

TESTS = Path(__file__).parent
SHARED = ("server", "demo_model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells pytest-xdist, which is started with ``--dist loadgroup``, what belongs together."""
    groups = {item.path: _own_group(item.path) for item in items}
    for item in items:
        if shared := _shared_by(item):
            live = item.path.is_relative_to(TESTS / "live")
            groups[item.path] = f"live {shared}" if live else shared
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.path]))


def _own_group(path: Path) -> str:
    return str(path.relative_to(TESTS))


def _shared_by(item: pytest.Item) -> str | None:
    """The fixture of this file that a test uses, unless a module's own replaces it."""
    if not isinstance(item, pytest.Function):
        return None
    fixtures = item._fixtureinfo.name2fixturedefs
    ours = (name for name in SHARED if name in fixtures and _is_ours(fixtures[name][-1]))
    return next(ours, None)


def _is_ours(fixture: pytest.FixtureDef[Any]) -> bool:
    return fixture.func.__code__.co_filename == __file__


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo model, the one server of most tests of a worker."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def demo_model() -> JaxModel:
    """The demo model with batch sizes 1 and 4, in this process."""
    from magenta_bento.model.loader import load_model
    from magenta_bento.weights.catalog import locate

    settings = Settings(max_streams=4, compile_cache=COMPILE_CACHE, frames_per_step=5)
    model, _ = load_model(settings, locate("demo", settings))
    return model
