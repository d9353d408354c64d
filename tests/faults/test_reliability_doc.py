"""docs/reliability.md names tests and bounds that exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from serving import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "reliability.md"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT.read_text())
BOUNDS = re.findall(r"\| ([\d.,]+) (?:s )?\| `([\w.]+)\.(\w+)` \|", DOCUMENT.read_text())
HERE = Path(__file__)


def functions_in(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text())
    return {n.name for n in tree.body if isinstance(n, kinds) and n.name.startswith("test_")}


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_what_is_named_exists(file: str, test: str) -> None:
    path = REPOSITORY / file
    assert path.is_file(), f"{file} is named, and is not there"
    assert test in functions_in(path), f"{file} has no {test}"


def test_every_fault_that_is_injected_is_told() -> None:
    injected = {
        (path.relative_to(REPOSITORY).as_posix(), test)
        for path in HERE.parent.glob("test_*.py")
        if path != HERE
        for test in functions_in(path)
    }
    assert injected - set(NAMED) == set()


@pytest.mark.parametrize(("value", "module", "name"), BOUNDS)
def test_the_bounds_told_are_the_bounds(value: str, module: str, name: str) -> None:
    owner = importlib.import_module(f"magenta_bento.{module}")
    assert float(value.replace(",", "")) == getattr(owner, name)


def test_there_are_bounds_to_compare() -> None:
    assert len(BOUNDS) >= 6
