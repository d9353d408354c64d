"""README and docs/ say what is true: examples run as printed, and every name in them exists."""

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
DOCUMENTS = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
ADDRESS = "http://localhost:3000"
TIMEOUT_S = 120
AUDIO = (".mp3", ".wav", ".flac", ".ogg")
# Variables that are not settings: make's, Hugging Face's, the shell's.
OTHER_VARIABLES = {"PORT", "CUDA", "TLS", "MODEL", "HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE"}
OTHER_VARIABLES |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "TMPDIR", "BENTOML_CONTAINERIZED"}
# Words that look like variables and are none.
NOT_VARIABLES = {"README", "CHANGELOG", "LICENSE", "NOTICE", "POST", "DEBUG", "INFO"}
NOT_VARIABLES |= {*get_args(PlaybackControl)}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def examples() -> list[Block]:
    """README's blocks that talk to a server and run here, and the answers it prints."""
    return [
        b
        for b in blocks(README)
        if ("//localhost:3000" in b.text or b.language == "json")
        and b.language not in ("html", "text")  # a page, and a player that nobody has here
        and "genai" not in b.text  # tests/live runs Google's SDKs
    ]


def run(block: Block, folder: Path, server: Server) -> str:
    """Runs an example as printed, but for the port; returns what it printed."""
    text = block.text.replace(ADDRESS, server.url)
    text = text.replace(ADDRESS.replace("http", "ws"), server.url.replace("http", "ws"))
    if block.language == "sh":
        # A reader would see each failure: here the first one ends the block.
        command = ["bash", "-euo", "pipefail", "-c", text]
    elif block.language == "python":
        (folder / "example.py").write_text(text)
        command = [sys.executable, "example.py"]
    elif block.language == "javascript":
        (folder / "example.mjs").write_text(text)
        command = ["node", "example.mjs"]
    else:
        raise AssertionError(f"nobody knows how to run {block.language}")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, Path | list[str]]:
    """All examples, run in README's order in one empty folder."""
    folder = tmp_path_factory.mktemp("readme")
    printed = [run(b, folder, server) if b.language != "json" else "" for b in examples()]
    return {"folder": folder, "printed": printed}


def written(block: Block) -> Iterator[str]:
    """The files that an example says it writes."""
    for pattern in (
        r"(?:--output|-o) (\S+)",
        r'open\("([^"]+)", "wb"\)',
        r'copy\(made, "([^"]+)"\)',
        r'writeFile\("([^"]+)"',
    ):
        yield from re.findall(pattern, block.text)


def test_there_is_an_example_in_every_language() -> None:
    languages = [block.language for block in examples()]
    assert languages.count("sh") >= 5
    assert languages.count("python") == 3
    assert languages.count("javascript") == 1
    assert languages.count("json") == 1
    python = [block.text for block in examples() if block.language == "python"]
    assert any("requests.post(" in text and "data=" in text for text in python)
    assert any("bentoml.SyncHTTPClient(" in text for text in python)
    assert any("websockets" in text for text in python)


def test_every_route_has_an_example() -> None:
    together = "".join(block.text for block in examples())
    for route in ("/generate/text", "/generate/audio", "/generate/blend"):
        assert f"{ADDRESS}{route}" in together
    for route in ("/embed/text", "/embed/audio", "/stream/text", "/prompts/audio"):
        assert f"{ADDRESS}{route}" in together


def test_every_example_runs_and_its_music_plays(ran: dict[str, Path | list[str]]) -> None:
    folder = ran["folder"]
    assert isinstance(folder, Path)
    promised = [name for block in examples() for name in written(block)]
    assert len(promised) == len(set(promised)) >= 10
    for name in promised:
        if not name.endswith(AUDIO):
            answer = json.loads((folder / name).read_text())
            if "audio_id" in answer:
                continue
            assert answer["shape"] == [len(answer["embedding"])] == [768]
            assert len(answer["tokens"]) == 12
            continue
        samples, rate_hz = soundfile.read(folder / name, dtype="int16", always_2d=True)
        assert rate_hz == SAMPLE_RATE_HZ
        assert samples.shape[1] == 2
        assert len(samples) >= 50 * FRAME_SAMPLES
        assert samples.any()
        assert name.endswith(("mp3", "ogg", "flac", "wav"))
        assert soundfile.info(folder / name).format == Path(name).suffix[1:].upper()


def test_a_jam_plays_what_it_was_asked_for(ran: dict[str, Path | list[str]]) -> None:
    folder, printed = ran["folder"], ran["printed"]
    assert isinstance(folder, Path)
    assert isinstance(printed, list)
    (told,) = [text for b, text in zip(examples(), printed, strict=True) if "/ws/jam" in b.text]
    samples, _ = soundfile.read(folder / "jam.wav", dtype="int16", always_2d=True)
    assert len(samples) == 8 * SAMPLE_RATE_HZ
    messages = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert messages[0]["type"] == "started"
    (ack,) = [message for message in messages if message.get("of") == "update"]
    frames = samples.reshape(-1, FRAME_SAMPLES, 2)
    assert 4 * 25 <= ack["frame"] < len(frames)
    assert frames[ack["frame"] :].any()


def test_the_audio_element_plays(server: Server) -> None:
    (block,) = [b for b in blocks(README) if b.language == "html"]
    sources = re.findall(rf'src="{ADDRESS}([^"]+)"', block.text)
    players = [b for b in blocks(README) if b.language == "text"]
    sources += [path for b in players for path in re.findall(rf'"{ADDRESS}([^"]+)"', b.text)]
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


def lyria_blocks(language: str) -> list[str]:
    return [b.text for b in blocks(README) if b.language == language and "genai" in b.text]


def test_the_python_sdk_has_what_is_named() -> None:
    """tests/live runs the SDK; here its example is only held against it."""
    (text,) = lyria_blocks("python")
    compile(text, "README.md", "exec")
    from google.genai import types
    from google.genai.live_music import AsyncMusicSession

    for name in re.findall(r"session\.(\w+)\(", text):
        assert hasattr(AsyncMusicSession, name), name
    for kind, arguments in re.findall(r"types\.(\w+)\(([^)]*)\)", text):
        assert set(re.findall(r"(\w+)=", arguments)) <= set(getattr(types, kind).model_fields)
    assert {"base_url"} <= set(types.HttpOptions.model_fields)
    assert "base_url" in text


def test_the_javascript_sdk_example_is_javascript(tmp_path: Path) -> None:
    (text,) = lyria_blocks("javascript")
    (tmp_path / "lyria.mjs").write_text(text)
    subprocess.run(["node", "--check", "lyria.mjs"], cwd=tmp_path, check=True, timeout=TIMEOUT_S)
    for name in ("baseUrl", "setWeightedPrompts", "setMusicGenerationConfig", "onmessage"):
        assert name in text


def test_an_answer_shown_is_the_answer_given(ran: dict[str, Path | list[str]]) -> None:
    printed = ran["printed"]
    assert isinstance(printed, list)
    for index, block in enumerate(examples()):
        if block.language == "json":
            assert json.loads(printed[index - 1]) == json.loads(block.text)


def test_the_settings_table_is_the_commands() -> None:
    command = [sys.executable, "-m", "magenta_bento.cli", "settings", "--markdown"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    between = r"<!-- settings: made by `magenta-bento settings --markdown` -->\n(.*?)\n<!-- end"
    table = re.search(between, README.read_text(), re.DOTALL)
    assert table is not None
    assert table[1] == shown.stdout.strip()


def code(document: Path) -> list[str]:
    """What stands between backticks, and each line of a shell block."""
    text = document.read_text()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for b in blocks(document) if b.language == "sh" for line in b.text.splitlines()]
    return [*re.findall(r"`([^`\n]+)`", outside), *lines]


def everywhere(pattern: str) -> set[str]:
    return {
        found for document in DOCUMENTS for c in code(document) for found in re.findall(pattern, c)
    }


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = everywhere(r"\bmake ([a-z]\S*)")
    assert {"serve", "test", "check", "bench"} <= named
    assert named <= targets


def test_every_command_exists() -> None:
    named = everywhere(r"^(?:\S+=\S+ )*magenta-bento ((?:-?-?[a-z]+ ?)+)")
    assert len(named) >= 4
    for words in named:
        command: click.Command = main
        for word in words.split():
            if word.startswith("--"):
                assert any(word in option.opts for option in command.params), words
            elif isinstance(command, click.Group):
                assert word in command.commands, words
                command = command.commands[word]


def test_every_module_that_is_run_exists() -> None:
    for module in everywhere(r"python -m ([a-z_.]+)"):
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


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
        anchors |= set(re.findall(r'<a name="([\w-]+)">', text))
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, target
            elif not target.startswith("https://"):
                assert (document.parent / target.split("#")[0]).is_file(), target


def test_every_variable_is_a_setting() -> None:
    settings = {name.upper() for name in Settings.model_fields}
    named = everywhere(r"(?<![\w.])\$?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)(?![\w.])(?==|$|/)")
    assert {"MAX_DURATION", "MAGENTA_MODEL", "DETERMINISTIC", "MAX_STREAMS"} <= named
    unknown = {name for name in named if len(name) > 3} - settings - OTHER_VARIABLES
    assert unknown <= NOT_VARIABLES


def test_every_route_and_metric_exists(server: Server) -> None:
    documented = requests.get(f"{server.url}/docs.json", timeout=10).json()
    assert set(documented["paths"]) <= everywhere(r"(/[a-z]+(?:/[a-z_{}.]+)*)$")
    also_get = {path for path, item in documented["paths"].items() if {"get", "post"} <= set(item)}
    assert also_get == everywhere(r"^GET (/stream/[a-z]+)$")
    pages = ("/docs", "/redoc", "/docs.json", "/health", "/metrics", "/readyz", "/livez")
    for route in (*pages, "/ws/jam/schema.json"):
        assert route in README.read_text()
        assert requests.get(f"{server.url}{route}", timeout=10).status_code == 200
    source = (REPOSITORY / "magenta_bento" / "metrics.py").read_text()
    names = set(re.findall(r'(?:gauge|counter|histogram)\(\s*"(\w+)"', source))
    named = everywhere(r"\bmagenta_bento_(\w+)")
    assert len(named) >= 10
    assert {name.removesuffix("_total") for name in named} <= names


def told_fields(heading: str) -> dict[str, str]:
    """Field and default of the table below a heading."""
    (text,) = re.findall(rf"^### {heading}$(.*?)^#", README.read_text(), re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", text, re.MULTILINE))


def test_every_field_and_default_is_as_the_api_says(server: Server) -> None:
    documented = requests.get(f"{server.url}/docs.json", timeout=10).json()
    generation = told_fields("What every generation takes")
    stream = {**generation, **told_fields("What every stream takes")}
    assert len(stream) == len(generation) + 1
    for path, told in (("/generate/text", generation), ("/stream/text", stream)):
        body = documented["paths"][path]["post"]["requestBody"]["content"]
        fields = body["application/json"]["schema"]["properties"]
        assert set(told) == set(fields) - {"prompt"}
        assert told["seed"] == "random"
        for name in set(told) - {"seed", "pace"}:
            assert str(fields[name]["default"]) in (told[name], f"{told[name]}.0")
    assert stream["pace"] == "asap"
    assert "default" not in fields["pace"]  # it depends on the duration, as the table says
    routes = re.findall(r"^\| `POST (/\S+)` \| (.*?) \|", README.read_text(), re.MULTILINE)
    assert {route for route, _ in routes} == {
        path for path, item in documented["paths"].items() if "post" in item
    }
    for route, cell in routes:
        content = documented["paths"][route]["post"]["requestBody"]["content"]
        properties = set(content["multipart/form-data"]["schema"]["properties"])
        of_all = {"/generate": set(generation), "/stream": set(stream)}
        shared = of_all.get(f"/{route.split('/')[1]}", set())
        assert set(re.findall(r"`(\w+)`", cell)) == properties - shared


def test_every_error_type_is_told() -> None:
    source = (REPOSITORY / "magenta_bento" / "errors.py").read_text()
    types = set(re.findall(r'^    type(?:: ClassVar\[str\])? = "(\w+)"', source, re.MULTILINE))
    rows = re.findall(r"^\| \d{3} \| (.*?) \|", README.read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert types | {"not_found", "method_not_allowed"} == told
