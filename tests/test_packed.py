"""Models that are packed become a part of the Bento, and are found where it is served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving import REPOSITORY

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.weights import catalog
from magenta_bento.weights.catalog import ModelFiles

NAME = "mrt2_small"
RUN_S = 120
CHOOSE = """
from magenta_bento.config import Settings
from magenta_bento.weights.catalog import choose
files = choose(Settings.from_env())
print(files.name, files.checkpoint)
"""
# What a container does: the Bento's folder is served, and there is no other store.
LOAD = """
import sys
from bentoml._internal.service.loader import load
load(sys.argv[1], working_dir=sys.argv[1])
"""


@pytest.fixture(name="home", scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MAGENTA_HOME with whole files under the name of a trained model: the demo's."""
    home = tmp_path_factory.mktemp("home")
    demo = catalog.locate("demo", Settings())
    for place, path in demo.by_relative_path.items():
        target = home / "magenta-rt-v2" / str(place).replace("demo", NAME)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return home


def run(command: list[str], store: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "true", **settings},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


@pytest.fixture(name="store", scope="module")
def _store(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME in which the model is packed."""
    store = tmp_path_factory.mktemp("store")
    command = ["-m", "magenta_bento.cli", "models", "pack", NAME]
    done = run(command, store, MAGENTA_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert f"MAGENTA_MODEL={NAME} bentoml build" in done.stdout
    return store


def test_what_is_packed_is_served_without_magenta_home(store: Path, tmp_path: Path) -> None:
    listed = run(["-m", "magenta_bento.cli", "models", "list"], store, MAGENTA_HOME=str(tmp_path))
    (served,) = (line for line in listed.stdout.splitlines() if line.startswith("*  "))
    assert NAME in served


def test_magenta_home_goes_before_what_is_packed(home: Path, store: Path) -> None:
    done = run(["-c", CHOOSE], store, MAGENTA_HOME=str(home))
    assert Path(done.stdout.split()[-1]).is_relative_to(home)


def test_a_bento_includes_it_and_finds_it(store: Path, tmp_path: Path) -> None:
    build = ["-m", "bentoml", "build", "--version", "packed", "--output", "tag"]
    done = run(build, store, MAGENTA_MODEL=NAME)
    assert done.returncode == 0, done.stderr
    bento = store / "bentos" / "magenta-bento" / "packed"
    info = yaml.safe_load((bento / "bento.yaml").read_text())
    models = [*info["models"], *(model for s in info["services"] for model in s["models"])]
    assert {model["tag"].partition(":")[0] for model in models} == {f"magenta-{NAME}"}

    # As BentoML lays an image out: the Bento, and its models beside its source.
    image = tmp_path / "bento"
    shutil.copytree(bento, image)
    shutil.copytree(store / "models", image / "models")
    empty = tmp_path / "empty"
    done = run(["-c", LOAD + CHOOSE, str(image)], empty, MAGENTA_HOME=str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    name, checkpoint = done.stdout.split()[-2:]
    assert name == NAME
    assert Path(checkpoint).is_relative_to(image / "models")


def test_a_bento_without_a_name_includes_no_model(store: Path) -> None:
    build = ["-m", "bentoml", "build", "--version", "plain", "--output", "tag"]
    assert run(build, store, MAGENTA_MODEL="demo").returncode == 0
    info = yaml.safe_load((store / "bentos/magenta-bento/plain/bento.yaml").read_text())
    assert info["models"] == []
    assert [service["models"] for service in info["services"]] == [[]]


def test_what_is_not_whole_is_not_packed(home: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "home"
    shutil.copytree(home, damaged)
    (damaged / "magenta-rt-v2" / "checkpoints" / f"{NAME}.safetensors").write_bytes(b"")
    command = ["-m", "magenta_bento.cli", "models", "pack", NAME]
    done = run(command, tmp_path / "store", MAGENTA_HOME=str(damaged))
    assert done.returncode == 1
    assert f"{NAME}.safetensors (empty)" in done.stderr
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_places_are_where_locate_looks(tmp_path: Path) -> None:
    files = catalog.locate(NAME, Settings(magenta_home=tmp_path))
    assert isinstance(files, ModelFiles)
    root = catalog.home(Settings(magenta_home=tmp_path))
    assert {root / place: path for place, path in files.by_relative_path.items()} == {
        path: path for path in files.all
    }
    with pytest.raises(WeightsError):
        catalog.locate("mrt3", Settings())
