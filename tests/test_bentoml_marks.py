"""Each place that leans on BentoML's inside is marked, and listed in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = [REPOSITORY / "service.py", *sorted((REPOSITORY / "magenta_bento").rglob("*.py"))]
MARK = "# bentoml: "
PRIVATE = re.compile(r"_bentoml|bentoml\._|bentoml\..*\._")


def private_imports(source: str) -> Iterator[ast.stmt]:
    """The statements that import from a module whose name begins with an underscore."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        else:
            continue
        if any(map(PRIVATE.match, modules)):
            yield node


def is_marked(source: str, line: int) -> bool:
    """Whether a line, or the comment right above it, carries the mark."""
    lines = source.splitlines()
    if MARK in lines[line - 1]:
        return True
    above = line - 2
    while above >= 0 and lines[above].lstrip().startswith("#"):
        if MARK in lines[above]:
            return True
        above -= 1
    return False


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_a_private_import_says_why(file: Path) -> None:
    source = file.read_text()
    unmarked = [
        node.lineno for node in private_imports(source) if not is_marked(source, node.lineno)
    ]
    assert unmarked == []


def test_there_are_private_imports_and_unmarked_ones_are_found() -> None:
    assert sum(len(list(private_imports(file.read_text()))) for file in SOURCES) >= 3
    bare = "import os\nfrom bentoml._internal.server import http\n"
    (found,) = private_imports(bare)
    assert not is_marked(bare, found.lineno)
    assert list(private_imports("import _bentoml_impl.worker"))
    assert not list(private_imports("from bentoml.validators import ContentType"))
    marked = f"# one\n{MARK}why\n# more\nfrom _bentoml_sdk import IODescriptor\n"
    assert is_marked(marked, 4)


def test_the_document_lists_exactly_the_files_with_marks() -> None:
    marked = {str(file.relative_to(REPOSITORY)) for file in SOURCES if MARK in file.read_text()}
    document = (REPOSITORY / "docs" / "architecture.md").read_text()
    _, _, after = document.partition("## Where the code leans on BentoML's inside")
    section, _, _ = after.partition("\n## ")
    assert set(re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)) == marked
