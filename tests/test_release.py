"""What a release must be consistent in: versions, pins, dependencies, licences, and no traces."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving import REPOSITORY

from magenta_bento import __version__

PACKAGE = REPOSITORY / "magenta_bento"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CPU, CUDA, DEVELOPMENT = (REPOSITORY / f"requirements{kind}.txt" for kind in ("", "-cuda", "-dev"))
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,]+\])?==[A-Za-z0-9.!+]+")
# Packages that another dependency is made of, or brings by its own pinned choice.
BROUGHT_BY = {
    "starlette": "bentoml",
    "flax": "magenta-rt",
    "jaxlib": "jax",
    "packaging": "bentoml",
}
# Built from parts, so that this file is not found by its own search.
REGISTRIES = ["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.", "index" + "-url"]
MACHINE_PATHS = ["/" + folder for folder in ("work/", "root/", "home/[a-z]+/[a-z]", "opt/[a-z]")]


def pins(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    return [line for line in (line.split("#")[0].strip() for line in lines) if line]


def test_the_version_is_the_newest_of_the_changelog() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", changelog, re.MULTILINE
    )
    assert released[0][0] == __version__
    numbers = [tuple(map(int, version.split("."))) for version, _ in released]
    assert numbers == sorted(set(numbers), reverse=True)
    dates = [date for _, date in released]
    assert dates == sorted(dates, reverse=True)
    assert re.search(r"^## \[Unreleased\]$", changelog, re.MULTILINE)


def test_the_command_tells_the_version() -> None:
    command = [sys.executable, "-m", "magenta_bento.cli", "--version"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert shown.stdout.split()[-1] == __version__


def test_every_requirement_is_a_plain_pin() -> None:
    for file in (CPU, CUDA, DEVELOPMENT):
        lines = pins(file)
        assert [line for line in lines if not PIN.fullmatch(line)] == []
        names = [canonicalize_name(Requirement(line).name) for line in lines]
        assert len(names) == len(set(names)) > 0


def test_cuda_differs_in_jax_alone() -> None:
    cpu = pins(CPU)
    (jax,) = (line for line in cpu if line.startswith("jax=="))
    version = jax.removeprefix("jax==")
    on_gpu = {jax: f"jax[cuda12]=={version}"}
    plugins = [f"jax-cuda12-{part}=={version}" for part in ("plugin", "pjrt")]
    assert pins(CUDA) == [*(on_gpu.get(line, line) for line in cpu), *plugins]


def test_pins_satisfy_the_declared_dependencies() -> None:
    declared = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
    ]
    pinned = {canonicalize_name(Requirement(p).name): Requirement(p) for p in pins(CPU)}
    for line in declared:
        wanted = Requirement(line)
        (exact,) = pinned[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(exact.version), line


def imports(file: Path) -> Iterator[str]:
    """Top-level names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_every_import_is_a_declared_dependency() -> None:
    declared = {
        canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]
    }
    ours = {"magenta_bento", "service"}
    # What a distribution that is declared installs under another name of its own.
    provided = packages_distributions()
    files = [REPOSITORY / "service.py", *PACKAGE.rglob("*.py")]
    missing = {}
    for file in files:
        for name in set(imports(file)) - set(sys.stdlib_module_names) - ours - {"__future__"}:
            distributions = {canonicalize_name(d) for d in provided.get(name, [])}
            # sequence_layers comes inside magenta_rt, and becomes importable through it.
            distributions |= {"magenta-rt"} if name == "sequence_layers" else set()
            distributions |= {BROUGHT_BY[d] for d in distributions & BROUGHT_BY.keys()}
            if not distributions & declared:
                missing[name] = file.relative_to(REPOSITORY).as_posix()
    assert missing == {}


def test_every_declared_dependency_is_used() -> None:
    # Used by name alone: assets that are served, a parser that Starlette imports, the WebSockets
    # of uvicorn, and what BentoML's client imports without declaring it.
    by_name = {"mkdocs-redoc-tag", "python-multipart", "websockets", "pillow"}
    provided = packages_distributions()
    used = {
        canonicalize_name(d)
        for file in [REPOSITORY / "service.py", *PACKAGE.rglob("*.py")]
        for name in imports(file)
        for d in provided.get(name, [])
    }
    declared = {
        canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]
    }
    assert declared - used - by_name == set()


def test_no_file_names_a_registry_or_a_place_of_this_machine() -> None:
    """Files that git tracks, or would with the next commit."""
    found = subprocess.run(
        ["git", "grep", "--untracked", "-I", "-n", "-E", "|".join(REGISTRIES + MACHINE_PATHS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr  # 1: nothing was found


def test_the_licence_is_apache_2() -> None:
    licence = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert licence.rstrip().endswith("limitations under the License.")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    notice = (REPOSITORY / "NOTICE").read_text()
    for words in ("Magenta RealTime", "Google LLC", "CC-BY 4.0", "not included"):
        assert words in notice
