"""docs/ says what is true: tables are the code's, and the messages are the server's."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import requests
import websockets
import yaml
from pydantic import BaseModel, Field
from pydantic.alias_generators import to_camel
from serving import REPOSITORY, Server

from magenta_bento import __version__
from magenta_bento.audio.formats import CHANNELS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from magenta_bento.controls import Controls, make_optional
from magenta_bento.errors import ServiceError
from magenta_bento.live import (
    connection,
    crossfade,
    jam_messages,
    jam_protocol,
    lyria_messages,
    lyria_protocol,
    session,
)
from tools.docs import regenerated
from tools.docs.__main__ import DOCUMENTS
from tools.docs.fields import request_table

DOCS = REPOSITORY / "docs"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
API = DOCS / "api.md"
JAM = DOCS / "jam.md"
LYRIA = DOCS / "lyria.md"
PACKAGE = REPOSITORY / "magenta_bento"
TIMEOUT_S = 60
# Codes that the WebSocket library closes with by itself.
OF_THE_LIBRARY = {1000, 1009}
MAX_SOCKET_BYTES = 16 * 1024 * 1024  # uvicorn's own bound on a message


def sections(document: Path) -> dict[str, str]:
    """Every heading's own text; the headings of a document differ."""
    parts = re.split(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    assert len(parts[1::2]) == len(set(parts[1::2]))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def examples(document: Path) -> list[str]:
    found = re.findall(r"^```json\n(.*?)\n```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def rows(text: str) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [i - 1 for i, line in enumerate(lines) if set(line) <= set("|-")]
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def of_type(kinds: Any) -> dict[str, type[BaseModel]]:
    return {kind.model_fields["type"].annotation.__args__[0]: kind for kind in get_args(kinds)}


CLIENT = of_type(jam_messages.ClientMessage)
SERVER = of_type(jam_messages.ServerMessage)


# Tables.


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_code(document: Path) -> None:
    text = document.read_text()
    assert regenerated(text) == text, "make docs writes them again"


def test_a_part_without_an_end_is_no_part() -> None:
    with pytest.raises(ValueError, match="1 generated parts begin, and 0 are whole"):
        regenerated("<!-- generated: settings -->\n| `MAX_DURATION` |\n")


class _MoreControls(Controls):
    foo: float = Field(default=1.5, ge=0, le=2, description="How much foo.")


def test_a_new_control_appears() -> None:
    row = "| `foo` | number | `1.5` | 0 to 2 | How much foo. |"
    assert row in request_table(_MoreControls).splitlines()
    assert (
        row.replace("`1.5`", "absent") in request_table(make_optional(_MoreControls)).splitlines()
    )
    assert request_table(_MoreControls, left_out={"foo"}) == request_table(Controls)


def test_every_field_of_the_api_has_a_row(server: Server) -> None:
    documented = requests.get(f"{server.url}/docs.json", timeout=10).json()
    bodies = [
        content["schema"]["properties"]
        for item in documented["paths"].values()
        for operation in item.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]
    fields = {name for body in bodies for name in body}
    assert len(fields) > len(Controls.model_fields)
    told = {row[0].strip("`") for text in sections(API).values() for row in rows(text)}
    assert fields <= told


# The jam.


@pytest.mark.parametrize("text", examples(JAM))
def test_a_jam_example_is_a_message(text: str) -> None:
    told = json.loads(text)
    if told["type"] in CLIENT:
        message: BaseModel = jam_messages.CLIENT.validate_json(text)
        assert message.model_dump(mode="json", exclude_unset=True) == told
    else:
        message = SERVER[told["type"]].model_validate_json(text)
        assert message.model_dump_json() == text  # byte for byte


def test_every_jam_message_has_a_section_and_an_example() -> None:
    shown = {json.loads(text)["type"] for text in examples(JAM)}
    assert shown == {*CLIENT, *SERVER}
    for name in shown:
        assert f'"type":"{name}"' in sections(JAM)[name].replace(": ", ":")


def test_the_examples_name_every_field_but_controls() -> None:
    for name, kind in (CLIENT | SERVER).items():
        told = [json.loads(text) for text in examples(JAM)]
        named = {field for message in told if message["type"] == name for field in message}
        assert named - set(Controls.model_fields) == set(kind.model_fields) - set(
            Controls.model_fields
        ), name


def test_the_arithmetic_is_right() -> None:
    text = JAM.read_text()
    frame_bytes = FRAME_SAMPLES * CHANNELS * 2
    assert f"| bytes as `pcm` | {frame_bytes:,} |" in text
    assert f"200 ms are 5 frames, {5 * frame_bytes:,} bytes" in text
    assert jam_messages.FRAME_MS == 1000 * FRAME_SAMPLES // SAMPLE_RATE_HZ == 40
    in_engine_ms = {
        lead: 40
        * min(session.MAX_ENGINE_LEAD_FRAMES, max(1, lead // 40 // session.ENGINE_LEAD_SHARE))
        for lead in (2000, 120)
    }
    assert in_engine_ms == {2000: 400, 120: 40}
    longest_s = crossfade.MAX_FADE_STYLES / 25
    assert f"up to {longest_s:g} seconds, and in {crossfade.MAX_FADE_STYLES} steps" in text
    assert f"at most {jam_protocol.MAX_MESSAGE_CHARS:,} characters" in text
    assert f"took nothing for {connection.STALL_S:g} seconds" in text
    assert f"for {connection.IDLE_S / 60:g} minutes nothing played" in text
    chunk_bytes = lyria_protocol.CHUNK_FRAMES * frame_bytes
    in_base64 = f"{chunk_bytes * 4 // 3:,}"
    chunk = f"{lyria_protocol.CHUNK_FRAMES / 25:g} s are {chunk_bytes:,} bytes, {in_base64} cha"
    assert chunk in LYRIA.read_text()
    assert f"over {lyria_protocol.RAMP_S:g} s" in LYRIA.read_text()


@pytest.mark.parametrize("document", [JAM, LYRIA])
def test_the_close_codes_are_those_of_the_errors(document: Path) -> None:
    told = [(int(row[0]), row[-2]) for row in rows(sections(document)["Errors"])]
    kinds = ServiceError.__subclasses__()
    codes = {kind.close_code for kind in kinds}
    assert {code for code, _ in told} - OF_THE_LIBRARY <= codes
    if document == JAM:
        by_type = {f"`{kind.type}`": kind.close_code for kind in kinds}
        for code, error_type in told:
            assert not error_type or by_type[error_type] == code
        named = {name.strip("`") for _, name in told if name}
        of_the_engine = {"idle", "slow_reader", "generation_failed", "not_ready", "overloaded"}
        assert of_the_engine | {"audio_budget_spent", "limits_unknown"} == named


async def test_a_conversation_is_as_shown(server: Server) -> None:
    """Sends what the page shows, and gets what it shows, in order."""
    shown = [text for text in examples(JAM) if "audio_id" not in text]
    sent = [text for text in shown if json.loads(text)["type"] in CLIENT]
    assert {json.loads(text)["type"] for text in sent} == set(CLIENT)
    answers: list[str] = []
    async with websockets.connect(f"{server.url.replace('http', 'ws')}/ws/jam") as socket:

        async def answer() -> str:
            while isinstance(message := await socket.recv(), bytes) or '"stats"' in message:
                assert isinstance(message, str) or len(message) == 38_400
            return message

        async with asyncio.timeout(TIMEOUT_S):
            for text in sent:
                await socket.send(text)
                answers.append(await answer())
            await socket.send('{"type": "start", "prompts": [{"text": "x"}], "top_k": 0}')
            answers.append(await answer())
    for text in shown:
        told = json.loads(text)
        if told["type"] in ("started", "pong", "error") and not told.get("fatal"):
            assert text in answers
    acks = [json.loads(text) for text in answers if '"ack"' in text]
    assert [(ack["of"], ack["id"]) for ack in acks] == [
        (json.loads(text)["type"], json.loads(text)["id"])
        for text in sent
        if json.loads(text)["type"] not in ("start", "ping")
    ]


async def test_what_is_too_large_is_refused_as_told(server: Server) -> None:
    async with websockets.connect(f"{server.url.replace('http', 'ws')}/ws/jam") as socket:
        await socket.send(" " * (jam_protocol.MAX_MESSAGE_CHARS + 1))
        told = json.loads(await socket.recv())
        assert (
            told["error"] == f"a message has at most {jam_protocol.MAX_MESSAGE_CHARS:,} characters"
        )
        assert not told["fatal"]
        await socket.send(" " * (MAX_SOCKET_BYTES + 1))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


# Lyria RealTime.


def test_a_lyria_example_is_a_message() -> None:
    fields = {to_camel(name) for name in lyria_messages.ClientMessage.model_fields}
    seen = set()
    for text in examples(LYRIA):
        ((name, told),) = json.loads(text).items()
        seen.add(name)
        if name == "setupComplete":
            assert text.encode() == lyria_messages.SETUP_COMPLETE
        elif name == "serverContent":
            ((chunk,),) = told.values()
            pcm = np.array([[0, 0], [-1, -1]], np.int16)
            made = lyria_messages.audio_chunk(pcm, chunk["sourceMetadata"]).decode()
            assert made.replace("AAAAAP////8=", "AAAAAP//") == text
        else:
            (taken,) = lyria_messages.parsed(text).model_fields_set
            assert to_camel(taken) == name
    assert seen == {*fields, "setupComplete", "serverContent"}


def test_the_playback_controls_and_bounds_are_the_protocols() -> None:
    controls = {row[0].strip("`") for row in rows(sections(LYRIA)["playbackControl"])}
    assert controls == set(get_args(lyria_messages.PlaybackControl))
    prompts, chars = lyria_messages.MAX_PROMPTS, lyria_messages.MAX_PROMPT_CHARS
    assert f"Up to {prompts} prompts of 1 to {chars:,} characters" in LYRIA.read_text()


def test_what_has_no_effect_is_not_read() -> None:
    ignored = ("bpm", "density", "brightness", "scale", "muteBass", "onlyBassAndDrums")
    for name in (*ignored, "musicGenerationMode"):
        assert f"`{name}`" in LYRIA.read_text()
        config = lyria_messages.parsed(json.dumps({"musicGenerationConfig": {name: "anything"}}))
        assert config.music_generation_config == lyria_messages.MusicGenerationConfig()


# Every page.


def names(pattern: str) -> set[str]:
    """What stands between backticks on any page and is of a pattern as a whole."""
    spans = [
        span for page in DOCS.glob("*.md") for span in re.findall(r"`([^`\n]+)`", page.read_text())
    ]
    return {span for span in spans if re.fullmatch(pattern, span)}


def test_every_module_of_live_is_on_the_page_of_the_architecture() -> None:
    page = (DOCS / "architecture.md").read_text()
    for module in (PACKAGE / "live").glob("*.py"):
        if module.name not in ("__init__.py", "jam_messages.py", "lyria_messages.py"):
            assert f"live/{module.name}" in page


def test_every_member_named_exists() -> None:
    """``Stream.steer``, ``Slots.compacted`` and their like."""
    defined: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                members = {n.name for n in node.body if hasattr(n, "name")}
                defined.setdefault(node.name, set()).update(members)
    named = names(r"[A-Z][A-Za-z]+\.[a-z_]+")
    assert {"Stream.steer", "Stream.reset"} <= named
    for name in named:
        owner, member = name.split(".")
        upstream = owner.startswith("MagentaRT")
        assert upstream or member in defined[owner], name


def test_the_published_schema_is_the_messages(server: Server) -> None:
    schema = requests.get(f"{server.url}/ws/jam/schema.json", timeout=10).json()
    assert schema == jam_messages.schema()


# CITATION.cff


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= cited.keys()
    assert cited["version"] == __version__
    assert f"## [{__version__}] - {cited['date-released']}" in CHANGELOG.read_text()
    paper = cited["preferred-citation"]
    (author_line,) = re.findall(r"author=\{(.*)\},", (REPOSITORY / "README.md").read_text())
    assert len(author_line.split(" and ")) == len(paper["authors"]) > 30
    assert f"title={{{paper['title']}}}" in (REPOSITORY / "README.md").read_text()
