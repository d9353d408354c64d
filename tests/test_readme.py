"""Documents say what is true: the examples run as printed, and every name in them exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click
import pytest
import requests
import soundfile
from serving import REPOSITORY, Server

from magenta_bento.audio.formats import FRAME_SAMPLES, SAMPLE_RATE_HZ
from magenta_bento.cli import main
from magenta_bento.config import Settings
from magenta_bento.live.lyria_messages import PlaybackControl

README = REPOSITORY / "README.md"
EXAMPLES = REPOSITORY / "docs" / "examples.md"
DOCUMENTS = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
WITH_LINKS = [
    *DOCUMENTS,
    *(REPOSITORY / name for name in ("CHANGELOG.md", "SECURITY.md", "deploy/README.md")),
]
ADDRESS = "http://localhost:3000"
TIMEOUT_S = 120
AUDIO = (".mp3", ".wav", ".flac", ".ogg")
RUNNABLE = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "javascript": ["node"]}
ENDINGS = {"sh": "sh", "python": "py", "javascript": "mjs"}
NOT_RUNNABLE = {"json", "html", "text", "bibtex", ""}
# Blocks in which one of these is found are not run here, and why.
NOT_RUN = {
    r"^(\S+=.* )?make ": "sets up an environment, then serves or tests without an end in sight",
    "models download": "fetches gigabytes; tests/test_download.py has a hub of its own",
    "models verify mrt2_small": "checks a model that is not here; tests/test_verify.py",
    "bentoml build": "tests/test_bento.py builds one, and serves it",
    "-m pytest": "the tests themselves",
    r"-m bench\.": "measures for minutes, some of it on a GPU",
    r"-m tools\.demo_model": "trains for hours",
    "genai": "needs TLS and Google's SDKs; tests/live runs them",
}
# Variables that are not settings: make's, Hugging Face's, the shell's.
OTHER_VARIABLES = {"PORT", "CUDA", "TLS", "MODEL", "HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE"}
OTHER_VARIABLES |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "TMPDIR", "BENTOML_CONTAINERIZED"}
# Words that look like variables and are none.
NOT_VARIABLES = {"README", "CHANGELOG", "LICENSE", "NOTICE", "POST", "DEBUG", "INFO"}
NOT_VARIABLES |= {"RANGE", "RATE", "TEXT"}  # the kinds of values that options take
NOT_VARIABLES |= {*get_args(PlaybackControl)}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str

    @property
    def runs(self) -> bool:
        return self.language in RUNNABLE and not any(
            re.search(pattern, self.text, re.MULTILINE) for pattern in NOT_RUN
        )

    @property
    def files(self) -> list[str]:
        """The files that the example says it writes."""
        patterns = (
            r"(?:--output|-o) (\S+)",
            r'open\("([^"]+)", "wb"\)',
            r'copy\(made, "([^"]+)"\)',
            r'writeFile\("([^"]+)"',
        )
        return [name for pattern in patterns for name in re.findall(pattern, self.text)]


@dataclass(frozen=True)
class Ran:
    """A document whose examples have run in one empty folder, in order.

    Attributes:
      printed: What each block printed; "" for those that don't run.
    """

    folder: Path
    blocks: list[Block]
    printed: list[str]


def blocks(document: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def run(block: Block, folder: Path, server: Server) -> str:
    """Runs an example as printed, but for the port; returns what it printed."""
    text = block.text.replace(ADDRESS, server.url)
    text = text.replace(ADDRESS.replace("http", "ws"), server.url.replace("http", "ws"))
    file = folder / f"example.{ENDINGS[block.language]}"
    file.write_text(text)
    done = subprocess.run(
        [*RUNNABLE[block.language], file.name],
        cwd=folder,
        env={
            **os.environ,
            "BENTOML_DO_NOT_TRACK": "true",
            "MAGENTA_HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


WITH_EXAMPLES = [document for document in DOCUMENTS if any(b.runs for b in blocks(document))]


@pytest.fixture(
    scope="module", params=WITH_EXAMPLES, ids=[document.name for document in WITH_EXAMPLES]
)
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Ran:
    folder = tmp_path_factory.mktemp(request.param.stem)
    found = blocks(request.param)
    return Ran(folder, found, [run(b, folder, server) if b.runs else "" for b in found])


def test_every_example_runs_and_its_music_plays(ran: Ran) -> None:
    promised = [name for block in ran.blocks if block.runs for name in block.files]
    assert len(promised) == len(set(promised))
    for name in promised:
        path = ran.folder / name
        if path.suffix not in AUDIO:
            answer = json.loads(path.read_text())
            assert "audio_id" in answer or len(answer["tokens"]) == 12
            continue
        samples, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
        assert rate_hz == SAMPLE_RATE_HZ
        assert samples.shape[1] == 2
        assert len(samples) >= 50 * FRAME_SAMPLES
        assert samples.any()
        assert soundfile.info(path).format == path.suffix[1:].upper()


def test_an_answer_shown_is_the_answer_given(ran: Ran) -> None:
    for index, block in enumerate(ran.blocks[1:]):
        if block.language == "json" and ran.blocks[index].runs:
            assert json.loads(ran.printed[index]) == json.loads(block.text)


def test_a_jam_plays_what_it_was_asked_for(ran: Ran) -> None:
    for block, printed in zip(ran.blocks, ran.printed, strict=True):
        if not block.runs or "/ws/jam" not in block.text:
            continue
        (name,) = re.findall(r'wave\.open\("(\S+)"', block.text)
        samples, _ = soundfile.read(ran.folder / name, dtype="int16", always_2d=True)
        assert len(samples) == 8 * SAMPLE_RATE_HZ
        messages = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        assert messages[0]["type"] == "started"
        (ack,) = [message for message in messages if message.get("of") == "update"]
        frames = samples.reshape(-1, FRAME_SAMPLES, 2)
        assert 4 * 25 <= ack["frame"] < len(frames)
        assert frames[ack["frame"] :].any()


def test_every_block_runs_or_is_on_the_list() -> None:
    found = [block for document in DOCUMENTS for block in blocks(document)]
    assert {block.language for block in found} <= RUNNABLE.keys() | NOT_RUNNABLE
    text = "".join(block.text for block in found if block.language in RUNNABLE)
    for pattern in NOT_RUN:
        assert re.search(pattern, text, re.MULTILINE), pattern


def test_readme_has_an_example_of_each_kind() -> None:
    run_here = [block for block in blocks(README) if block.runs]
    assert {block.language for block in run_here} == set(RUNNABLE)
    assert any("/ws/jam" in block.text for block in run_here)
    assert len(README.read_text().splitlines()) <= 200


def test_every_route_of_the_api_has_an_example(server: Server) -> None:
    documented = requests.get(f"{server.url}/docs.json", timeout=10).json()
    text = "".join(b.text for document in DOCUMENTS for b in blocks(document) if b.runs)
    without = {path for path in documented["paths"] if f"{ADDRESS}{path.split('{')[0]}" not in text}
    # Each is one of three sisters that take the same fields, or has a document of its own.
    assert without == {"/stream/audio", "/stream/blend", "/ws/jam/schema.json"}


def test_the_audio_element_plays(server: Server) -> None:
    shown = [b.text for b in blocks(EXAMPLES) if b.language in ("html", "text")]
    sources = [path for text in shown for path in re.findall(rf'"{ADDRESS}([^"]+)"', text)]
    assert len(sources) == 2
    for path in sources:
        with requests.get(f"{server.url}{path}", stream=True, timeout=30) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "audio/mpeg"
            heard = 0
            for piece in answer.iter_content(None):
                heard += len(piece)
                if heard > 20_000:
                    break
            assert heard > 20_000


def lyria_block(language: str) -> str:
    (text,) = [
        b.text
        for b in blocks(REPOSITORY / "docs" / "lyria.md")
        if b.language == language and "genai" in b.text
    ]
    return text


def test_the_python_sdk_has_what_is_named() -> None:
    """tests/live runs the SDK; here its example is only held against it."""
    text = lyria_block("python")
    compile(text, "lyria.md", "exec")
    from google.genai import types
    from google.genai.live_music import AsyncMusicSession

    for name in re.findall(r"session\.(\w+)\(", text):
        assert hasattr(AsyncMusicSession, name), name
    for kind, arguments in re.findall(r"types\.(\w+)\(([^)]*)\)", text):
        assert set(re.findall(r"(\w+)=", arguments)) <= set(getattr(types, kind).model_fields)
    assert {"base_url"} <= set(types.HttpOptions.model_fields)
    assert "base_url" in text


def test_the_javascript_sdk_example_is_javascript(tmp_path: Path) -> None:
    text = lyria_block("javascript")
    (tmp_path / "lyria.mjs").write_text(text)
    subprocess.run(["node", "--check", "lyria.mjs"], cwd=tmp_path, check=True, timeout=TIMEOUT_S)
    for name in ("baseUrl", "setWeightedPrompts", "setMusicGenerationConfig", "onmessage"):
        assert name in text


def code(document: Path) -> Iterator[str]:
    """What stands between backticks, and each line of a shell block."""
    outside = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", outside)
    for block in blocks(document):
        if block.language == "sh":
            yield from block.text.splitlines()


def everywhere(pattern: str) -> set[str]:
    return {
        found for document in DOCUMENTS for c in code(document) for found in re.findall(pattern, c)
    }


def test_every_make_target_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = everywhere(r"\bmake ([a-z]\S*)")
    assert {"serve", "test", "check", "bench", "docs"} <= named
    assert named <= targets


def test_every_command_exists() -> None:
    named = everywhere(r"^(?:\S+=\S+ )*magenta-bento ((?:-?-?[a-z]+ ?)+)")
    assert len(named) >= 4
    for words in named:
        command: click.Command = main
        for word in words.split():
            if word.startswith("--"):
                options = command.get_params(click.Context(command))
                assert any(word in option.opts for option in options), words
            elif isinstance(command, click.Group):
                assert word in command.commands, words
                command = command.commands[word]


def test_every_module_that_is_run_exists() -> None:
    for module in everywhere(r"python -m ([a-z_.]+)") - {"pytest"}:
        place = REPOSITORY / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_every_option_of_a_bench_exists() -> None:
    for module, options in everywhere(r"python -m (bench\.[a-z]+)([^`]*)"):
        source = (REPOSITORY / f"{module.replace('.', '/')}.py").read_text()
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, f"{module} {option}"


def test_every_file_named_exists() -> None:
    """Paths of this repository; in docs/architecture.md also those inside the package."""
    # In code a name of a file is a path; folders of a user's machine begin with $ or ~.
    pattern = r"(?<![\w$~/.-])((?:[\w-]+/)*[\w-]+\.(?:py|md|toml|yaml|txt)|(?:[\w-]+/)+)(?![\w*<])"
    for document in DOCUMENTS:
        spans = re.findall(r"`([^`\n]+)`", document.read_text())
        if document.name == "architecture.md":
            spans += [line for b in blocks(document) for line in b.text.splitlines()]
        for name in {found for span in spans for found in re.findall(pattern, span)}:
            if span_is_foreign(name):
                continue
            places = [REPOSITORY / name, REPOSITORY / "magenta_bento" / name]
            assert any(place.exists() for place in places), f"{document.name}: {name}"


def span_is_foreign(name: str) -> bool:
    """Routes, media types and names at other places that look like our files."""
    first = name.split("/")[0]
    routes = {"generate", "stream", "embed", "prompts", "ws"}
    return first in routes | {"application", "multipart", "google", "resources", "audio"}


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", WITH_LINKS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        assert place.is_file(), target
        assert not anchor or anchor in anchors(place), target


def test_every_variable_is_a_setting() -> None:
    settings = {name.upper() for name in Settings.model_fields}
    named = everywhere(r"(?<![\w.])\$?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)(?![\w.])(?==|$|/)")
    assert {"MAX_DURATION", "MAGENTA_MODEL", "DETERMINISTIC", "MAX_STREAMS"} <= named
    unknown = {name for name in named if len(name) > 3} - settings - OTHER_VARIABLES
    assert unknown <= NOT_VARIABLES


def test_every_route_named_exists(server: Server) -> None:
    """Each answers, if only with 405 for what takes POST alone."""
    prefixes = {"/generate", "/stream", "/embed", "/prompts", "/ws/", "/data"}
    named = everywhere(r"^(?:GET |POST )?(/[a-z/.]+)$") - prefixes - {"/ws/jam"}
    assert {"/health", "/readyz", "/livez", "/metrics", "/docs", "/redoc", "/docs.json"} <= named
    for route in named:
        status = requests.get(f"{server.url}{route}", timeout=10, stream=True).status_code
        assert status in (200, 400, 405), route
