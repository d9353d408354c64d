"""The wheel, installed where nothing of this repository is: it serves."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from serving import REPOSITORY, Server, serving

from magenta_bento import __version__
from magenta_bento.config import Settings
from magenta_bento.weights.catalog import locate

BUILD_S = 120


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    wheel: Path
    folder: Path

    @property
    def command(self) -> str:
        return str(self.folder / "bin" / "magenta-bento")

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")


@pytest.fixture(name="installed", scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    sources = folder / "sources"  # setuptools would leave its build folder among ours
    shutil.copytree(REPOSITORY / "magenta_bento", sources / "magenta_bento")
    for name in ("service.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, sources)
    build = [*pip, "wheel", *offline, "--wheel-dir", str(folder), str(sources)]
    subprocess.run(build, check=True, timeout=BUILD_S)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    install = [*pip, "--python", str(environment / "bin" / "python"), "install", *offline]
    subprocess.run([*install, str(wheel)], check=True, timeout=BUILD_S)
    # All that it depends on, from the environment of the tests. What is installed there as
    # editable is not among it: files that say so are read in an environment's own folder only.
    (site_packages,) = environment.glob("lib/python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, environment)


@pytest.fixture(name="served", scope="module")
def _served(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with serving(folder, command=[installed.command, "serve"], cwd=folder) as running:
        yield running


def test_it_holds_what_serves_and_no_more(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    package = REPOSITORY / "magenta_bento"
    modules = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.py")}
    demo = {str(path.relative_to(REPOSITORY)) for path in locate("demo", Settings()).all}
    wanted = modules | demo | {"service.py", "magenta_bento/py.typed"}
    assert wanted <= names
    beside = {name for name in names - wanted if ".dist-info/" not in name}
    assert beside == set()
    assert any(name.endswith("/licenses/NOTICE") for name in names)


def test_it_is_what_runs(installed: Installed, tmp_path: Path) -> None:
    where = "import magenta_bento, service; print(magenta_bento.__file__, service.__file__)"
    command = [installed.python, "-c", where]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(path).is_relative_to(installed.folder) for path in ran.stdout.split()] == [
        True
    ] * 2


@pytest.mark.long
def test_it_makes_music(served: Server) -> None:
    assert requests.get(f"{served.url}/health", timeout=10).json()["version"] == __version__
    body = {"prompt": "funk", "duration": 0.4, "format": "wav"}
    answer = requests.post(f"{served.url}/generate/text", json=body, timeout=60)
    assert answer.status_code == 200
    assert len(answer.content) > 0.4 * 48_000 * 4


@pytest.mark.long
def test_its_pages_are_there(served: Server) -> None:
    assert requests.get(f"{served.url}/docs", timeout=10).status_code == 200
