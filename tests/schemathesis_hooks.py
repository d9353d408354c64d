"""What Schemathesis has to know of this server that an OpenAPI document can't tell it.

Loaded by Schemathesis itself (``SCHEMATHESIS_HOOKS``); see ``test_schemathesis.py``.

Invariant: a case keeps the sign that Schemathesis gave it. One that is to be accepted is mended
only where JSON Schema has no words for what is wrong with it; one that is to be refused stays
wrong.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import Any

import requests
import schemathesis
import soundfile
from audio_files import tone, wav_bytes
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, HookContext, Response

HEARD_BYTES = 2_000  # of music that may have no end
WEIGHTS = {"text_weights": "text_prompts", "audio_weights": "audio_files"}
# Lists that the server also reads from text: "a, b", "[1, 2]" or 60. The document gives them as
# arrays only and says the rest in words, for JSON Schema would need a parser to tell which texts
# are right. So Schemathesis takes such a text for wrong where the server is right to take it,
# and a list of one text that looks like several for right.
LISTS_FROM_TEXT = ("text_prompts", "text_weights", "audio_weights", "notes")
NO_LIST = ","  # text that is no list of any of these: both of its values are empty


def _encoded(format: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(0.3), 48_000, format=format)
    return file.getvalue()


# Schemathesis can only judge a body of text, so it gets files whose bytes are ASCII.
WAVS = [
    wav_bytes(bytes(range(20, 20 + samples)), rate_hz=rate_hz, bits=8).decode("ascii")
    for samples in (2, 80)
    for rate_hz in (8_000, 11_025)
]
AUDIO = [_encoded(format) for format in ("WAV", "FLAC", "OGG", "MP3")]
NO_AUDIO = [b"", b"RIFF\0\0\0\0WAVE", b"\x89PNG\r\n\x1a\n", b"\xff\xfb\x90\0" * 9, bytes(500)]

# What a file field is given, in place of pictures and random bytes.
schemathesis.openapi.format("binary", st.sampled_from(WAVS))

# Of HTTP, of browsers' protection and of BentoML, on any answer.
OF_ALL_ANSWERS = {
    *("allow", "connection", "content-length", "content-type", "date", "keep-alive", "server"),
    *("transfer-encoding", "content-security-policy", "referrer-policy", "x-content-type-options"),
    *("x-bentoml-request-id", "cache-control"),
}


@schemathesis.check
def headers_are_documented(context: CheckContext, response: Response, case: Case) -> None:
    """The other half of ``response_headers_conformance``: nothing comes that isn't announced."""
    told = case.operation.responses.find_by_status_code(response.status_code)
    if told is not None:
        undocumented = (
            set(response.headers)
            - OF_ALL_ANSWERS
            - {name.lower() for name, _ in told.headers.items()}
        )
        assert not undocumented, f"headers of {response.status_code}: {sorted(undocumented)}"


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    kwargs["hooks"] = {"response": _hear_the_beginning}
    if case.meta is None:
        return
    is_right = case.meta.generation.mode.is_positive
    mend = _with_weights_that_match if is_right else _without_lists_from_text
    if isinstance(case.body, dict):
        case.body = mend(case.body)
        if not is_right and case.media_type != "application/json":
            case.body = _without_numbers_as_text(case.body)
    if case.query:
        case.query = mend(case.query)
        if not is_right:
            case.query = _without_numbers_as_text(case.query)
    if case.media_type == "multipart/form-data":
        files = case.as_transport_kwargs().get("files")
        if files and zlib.crc32(repr(files).encode()) % 3 == 0:
            kwargs["files"] = _exchanged(files, AUDIO if is_right else NO_AUDIO)


def _exchanged(parts: list[Any], others: list[bytes]) -> list[Any]:
    """Other files on the wire than Schemathesis knows of: audio as well, or none at all."""
    other = others[zlib.crc32(repr(parts).encode()) // 3 % len(others)]
    return [
        (name, (part[0], other, *part[2:]) if part[0] and part[1] in WAVS else part)
        for name, part in parts
    ]


def _with_weights_that_match(given: dict[str, Any]) -> dict[str, Any]:
    """As many weights as prompts, and more than 0 together: JSON Schema can't ask for either."""
    fields = {name: _of_one_text(name, value) for name, value in given.items()}
    for weights, prompts in WEIGHTS.items():
        if len(_listed(fields.get(weights))) != len(_listed(fields.get(prompts))):
            fields.pop(weights, None)
    total = 0.0
    for weights, prompts in WEIGHTS.items():
        shares = _listed(fields.get(weights)) or [1] * len(_listed(fields.get(prompts)))
        total += sum(map(float, shares))
    if "audio_file" in fields:
        total = float(fields.get("audio_weight") or 1)
        total += float(fields.get("text_weight") or 1) if fields.get("prompt") else 0
    if total < 1:
        for weights in (*WEIGHTS, "audio_weight", "text_weight"):
            fields.pop(weights, None)
    return fields


def _of_one_text(name: str, value: Any) -> Any:
    """A list of one text, which in a form is no longer told from a text that is a list."""
    if name not in LISTS_FROM_TEXT or not isinstance(value, list) or len(value) != 1:
        return value
    text = value[0]
    return [re.sub(r"[\[\],]", " ", text).strip() or "a"] if isinstance(text, str) else value


def _without_lists_from_text(given: dict[str, Any]) -> dict[str, Any]:
    """Where the case is wrong for a spelling that the server takes, one that it refuses."""
    return {
        name: NO_LIST if name in LISTS_FROM_TEXT and _may_be_taken(value) else value
        for name, value in given.items()
    }


def _without_numbers_as_text(given: dict[str, Any]) -> dict[str, Any]:
    """A form has text only: "0" is wrong for Schemathesis where 0 is right, and is the same."""
    return {
        name: f"{value}x" if isinstance(value, str) and value.isdecimal() else value
        for name, value in given.items()
    }


def _may_be_taken(value: Any) -> bool:
    """Text, or a list with an item that a form leaves empty and so does not send."""
    if isinstance(value, list):
        return "" in value
    return not isinstance(value, dict)


def _listed(value: Any) -> list[Any]:
    """A list, which may be absent or null."""
    return value if isinstance(value, list) else []


def _hear_the_beginning(response: requests.Response, **_: Any) -> None:
    """Leaves music that may have no end once it is there."""
    is_streamed = "Content-Length" not in response.headers
    if response.ok and is_streamed and response.headers["Content-Type"].startswith("audio/"):
        response._content = next(response.iter_content(HEARD_BYTES), b"")
        response.close()
