"""The Bento: built without a network, holding what it needs and no more, served from elsewhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import soundfile
import yaml
from serving import REPOSITORY, Server, serving

from magenta_bento import __version__
from magenta_bento.config import Settings
from magenta_bento.weights.catalog import locate

BENTOML = [sys.executable, "-m", "bentoml"]
BUILD_S = 120
MARK = f"{__version__}+served.from.the.bento"
NO_NETWORK_BUT_LOOPBACK = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])
# From parts, for no file of ours may name an index (test_release.py).
INDEX = b"-".join((b"index", b"url"))
CLOSED = "http://127.0.0.1:9"  # the discard port, which nobody serves any more


@dataclass(frozen=True)
class Built:
    """A Bento in a store of its own."""

    home: Path
    folder: Path


def without_network() -> list[str]:
    """What to put before a command; nothing where this machine allows no namespaces."""
    for prefix in NO_NETWORK_BUT_LOOPBACK:
        try:
            allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            continue
        if allowed.returncode == 0:
            return prefix
    return []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("bentoml")
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    proxies = {f"{scheme}_proxy": CLOSED for scheme in ("http", "https", "all")}
    proxies |= {name.upper(): value for name, value in proxies.items()}
    done = subprocess.run(
        [*without_network(), *BENTOML, "build", "--output", "tag"],
        cwd=REPOSITORY,
        env={**environment, **proxies},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (path.parent for path in home.glob("bentos/magenta-bento/*/bento.yaml"))
    assert f"magenta-bento:{folder.name}" in done.stdout
    return Built(home, folder)


def files(built: Built) -> set[str]:
    source = built.folder / "src"
    return {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}


def test_it_holds_the_whole_service(built: Built) -> None:
    package = REPOSITORY / "magenta_bento"
    modules = {path.relative_to(REPOSITORY).as_posix() for path in package.rglob("*.py")}
    assert modules | {"service.py", "magenta_bento/py.typed"} <= files(built)


def test_it_holds_the_demo(built: Built) -> None:
    for path in locate("demo", Settings()).all:
        inside = built.folder / "src" / path.relative_to(REPOSITORY)
        assert inside.read_bytes() == path.read_bytes()


def test_it_holds_nothing_else(built: Built) -> None:
    allowed = r"service\.py|bentofile\.yaml|README\.md|LICENSE|NOTICE|magenta_bento/.*"
    assert {name for name in files(built) if not re.fullmatch(allowed, name)} == set()
    kinds = {Path(name).suffix for name in files(built) if name.startswith("magenta_bento/")}
    assert kinds <= {".py", ".typed", ".safetensors", ".tflite", ".model"}
    assert not any("__pycache__" in name or "test" in name for name in files(built))


def test_it_names_its_packages_and_not_this_machine(built: Built) -> None:
    pinned = (REPOSITORY / "requirements-cuda.txt").read_text().split()
    inside = (built.folder / "env/python/requirements.txt").read_text().split()
    assert set(inside) == set(pinned)  # BentoML adds its own pin, a second time
    for path in built.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(REPOSITORY).encode() not in data, path
            assert INDEX not in data, path


def test_it_asks_for_an_l4_and_for_time(built: Built) -> None:
    (service,) = yaml.safe_load((built.folder / "bento.yaml").read_text())["services"]
    assert service["config"]["resources"] == {"gpu": 1, "gpu_type": "nvidia-l4"}
    assert service["config"]["traffic"]["timeout"] >= 24 * 3600


def test_its_description_is_readme(built: Built) -> None:
    described = (built.folder / "README.md").read_text()
    assert described.strip() == (REPOSITORY / "README.md").read_text().strip()


@pytest.fixture(scope="module")
def served(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The built tag, served from a folder that knows nothing of the repository."""
    # So that /health tells whether this code runs, or the repository's installed beside it.
    version = built.folder / "src" / "magenta_bento" / "__init__.py"
    version.write_text(version.read_text().replace(__version__, MARK))
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [*BENTOML, "serve", "magenta-bento:latest"]
    with serving(folder, command=command, cwd=folder, BENTOML_HOME=str(built.home)) as running:
        yield running


@pytest.mark.long
def test_the_built_tag_makes_music(served: Server) -> None:
    health = requests.get(f"{served.url}/health", timeout=10).json()
    assert health["version"] == MARK
    assert health["model"] == "demo"
    fields = {"prompt": "disco funk", "duration": 1, "format": "wav"}
    answer = requests.post(f"{served.url}/generate/text", data=fields, timeout=60)
    assert answer.status_code == 200, answer.text
    samples, rate_hz = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert samples.shape == (48_000, 2)
    assert rate_hz == 48_000
    assert samples.any()


@pytest.mark.long
def test_the_built_tag_has_every_route(served: Server, server: Server) -> None:
    ours, theirs = (
        requests.get(f"{each.url}/docs.json", timeout=10).json()["paths"]
        for each in (server, served)
    )
    assert ours == theirs
    for page in ("/docs", "/redoc", "/metrics", "/readyz"):
        assert requests.get(f"{served.url}{page}", timeout=10).status_code == 200


@pytest.mark.long
def test_it_stops_cleanly(served: Server) -> None:
    """The last test: nobody is served after it."""
    assert served.stop() == 0
