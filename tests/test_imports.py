"""The order of imports (design.md): each module only imports from lines above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "magenta_bento"
ORDER = [
    {"errors", "config", "logs", "metrics", "process", "tls", "tracing"},
    {"access"},
    {"audio"},
    {"weights"},
    {"controls", "style", "capacity"},
    {"conditioning"},
    {"timeline"},
    {"model"},
    {"engine"},
    {"planning"},
    {"prompting"},
    {"runtime"},
    {"live"},
    {"web"},
    {"service", "cli"},
]
JAX = {"jax", "jaxlib", "flax", "optax", "sequence_layers"}
# Types that the engine needs; JAX starts only with what implements them.
NO_JAX_NEEDED = {"magenta_bento.model.protocol"}


@dataclass(frozen=True)
class Import:
    importer: str  # dotted name of the module
    imported: str  # dotted name of a module, or of what is in it
    lazy: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}{' lazily' if self.lazy else ''}"


def sources() -> dict[str, str]:
    """Module name to source, of the whole product."""
    paths = [REPOSITORY / "service.py", *(REPOSITORY / PACKAGE).rglob("*.py")]
    return {_name(path): path.read_text() for path in paths}


def _name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str, source: str) -> Iterator[Import]:
    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            for alias in node.names:
                yield Import(module, f"{node.module}.{alias.name}", lazy)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy or inside)

    yield from walk(ast.parse(source), False)


def part(name: str) -> str:
    """Which word of ORDER a module of the product belongs to; "" for the package itself."""
    if name.split(".")[0] != PACKAGE:
        return name.split(".")[0]
    word = name.split(".")[1] if "." in name else ""
    return word if any(word in line for line in ORDER) else ""


def line(word: str) -> int:
    return next(i for i, words in enumerate(ORDER) if word in words)


def out_of_order(found: Import) -> bool:
    importer, imported = part(found.importer), part(found.imported)
    ours = found.imported.split(".")[0] in (PACKAGE, "service")
    if not ours or not imported or not importer or importer == imported:
        return False
    return line(imported) >= line(importer) and not _same_line(importer, imported)


def _same_line(importer: str, imported: str) -> bool:
    """Within the first line, in the order that is written there: errors first."""
    return line(importer) == line(imported) == 0 and imported == "errors"


def touches_jax(found: Import) -> bool:
    root = found.imported.split(".")[0]
    return root in JAX or found.imported.startswith("magenta_rt.jax")


def touches_musiccoca(found: Import) -> bool:
    litert = found.imported.split(".")[0] in ("ai_edge_litert", "tensorflow")
    return litert or found.imported.startswith("magenta_rt.musiccoca")


def loads_the_model(found: Import) -> bool:
    protocol = any(found.imported.startswith(name) for name in NO_JAX_NEEDED)
    return part(found.imported) == "model" and not protocol


EVERY = [found for module, source in sources().items() for found in imports(module, source)]


def test_every_module_has_its_line() -> None:
    words = {part(module) for module in sources()} - {""}
    assert words <= set().union(*ORDER)
    top = {path.stem for path in (REPOSITORY / PACKAGE).iterdir() if path.suffix == ".py"}
    top |= {path.parent.name for path in (REPOSITORY / PACKAGE).glob("*/__init__.py")}
    assert top - {"__init__"} <= set().union(*ORDER)


def test_the_order_holds() -> None:
    assert [str(found) for found in EVERY if out_of_order(found)] == []


def test_only_the_model_imports_jax() -> None:
    assert [
        str(found) for found in EVERY if touches_jax(found) and part(found.importer) != "model"
    ] == []


def test_what_starts_fast_loads_the_model_lazily() -> None:
    """``magenta-bento settings`` and the server's first answers don't wait for JAX."""
    eager = [
        str(found)
        for found in EVERY
        if loads_the_model(found) and part(found.importer) != "model" and not found.lazy
    ]
    assert eager == []


def test_only_style_touches_musiccoca() -> None:
    assert [
        str(found)
        for found in EVERY
        if touches_musiccoca(found) and part(found.importer) != "style"
    ] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("magenta_bento.audio.decode", "from magenta_bento.weights import catalog"),
        ("magenta_bento.audio.decode", "import magenta_bento.weights.catalog"),
        ("magenta_bento.engine.engine", "from magenta_bento import runtime"),
        ("magenta_bento.style", "from magenta_bento.conditioning import SIZE"),
        ("magenta_bento.controls", "from magenta_bento.timeline import Timeline"),
        ("magenta_bento.errors", "from magenta_bento.config import Settings"),
        ("magenta_bento.web.request_parsing", "def f():\n    import service"),
        ("magenta_bento.cli", "if True:\n    from service import SETTINGS"),
    ],
)
def test_a_broken_order_is_seen(module: str, source: str) -> None:
    (found,) = imports(module, source)
    assert out_of_order(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service", "from magenta_bento import __version__"),
        ("service", "from magenta_bento.web import pages"),
        (
            "magenta_bento.runtime",
            "def f():\n    from magenta_bento.model.loader import load_model",
        ),
        ("magenta_bento.config", "from magenta_bento.errors import ConfigError"),
        (
            "magenta_bento.web.request_parsing",
            "from magenta_bento.web.request_models import Upload",
        ),
        ("magenta_bento.audio.tags", "import mutagen"),
    ],
)
def test_a_right_order_passes(module: str, source: str) -> None:
    (found,) = imports(module, source)
    assert not out_of_order(found)


@pytest.mark.parametrize(
    "source",
    [
        "import jax",
        "import jax.numpy as jnp",
        "from magenta_rt.jax import system",
        "from flax import nnx",
    ],
)
def test_jax_is_seen(source: str) -> None:
    (found,) = imports("magenta_bento.engine.engine", source)
    assert touches_jax(found)


@pytest.mark.parametrize(
    "source",
    ["from magenta_rt import musiccoca", "def f():\n    import ai_edge_litert.interpreter"],
)
def test_musiccoca_is_seen(source: str) -> None:
    (found,) = imports("magenta_bento.engine.engine", source)
    assert touches_musiccoca(found)
