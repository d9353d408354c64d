"""The OpenAPI document, made here: what depends on settings, and spellings that it describes.

That requests and answers are as it says is tests/test_schemathesis.py's matter.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import jsonschema_rs
import openapi_spec_validator
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from magenta_bento import errors
from magenta_bento.audio.formats import StreamFormat
from magenta_bento.config import Settings
from magenta_bento.web import cors, openapi
from magenta_bento.web.requests import BlendRequest, TextRequest
from magenta_bento.web.routes import COSTLY, OPEN
from service import MagentaBento

# What only a live connection is told.
OF_SOCKETS = {errors.SlowReader, errors.IdleSession}
GUARDED = Settings(enable_auth=True, api_keys=SecretStr("name:a-key-that-nobody-else-has"))


def document(settings: Settings) -> dict[str, Any]:
    made = openapi.document(MagentaBento.openapi_spec.asdict(), settings)  # type: ignore[attr-defined]
    openapi_spec_validator.validate(made)
    return made


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return document(Settings())


def methods(made: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method): told
        for path, item in made["paths"].items()
        for method, told in item.items()
    }


def answers(made: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [each for told in methods(made).values() for each in told["responses"].items()]


def types_of(answer: dict[str, Any]) -> set[str]:
    _, narrowed = answer["content"]["application/json"]["schema"]["allOf"]
    return set(narrowed["properties"]["type"]["enum"])


# Settings


def test_keys_are_optional_where_none_are_asked_for(plain: dict[str, Any]) -> None:
    assert plain["security"] == [{"header": []}, {"bearer": []}, {"query": []}, {}]
    assert "401" not in {status for status, _ in answers(plain)}


def test_keys_are_required_where_they_are_asked_for() -> None:
    made = document(GUARDED)
    assert {} not in made["security"]
    for (path, _), told in methods(made).items():
        assert ("401" in told["responses"]) == (path not in OPEN)
        assert (told.get("security") == []) == (path in OPEN)


def test_the_ways_to_send_a_key(plain: dict[str, Any]) -> None:
    schemes = plain["components"]["securitySchemes"]
    told = {each.get("name") or each["scheme"]: each.get("in") for each in schemes.values()}
    assert told == {"X-API-Key": "header", "bearer": None, "key": "query"}


@pytest.mark.parametrize("without_key", [True, False])
def test_metrics_may_be_open_or_absent(without_key: bool) -> None:
    settings = GUARDED.model_copy(update={"metrics_without_key": without_key})
    told = document(settings)["paths"]["/metrics"]["get"]
    assert ("401" in told["responses"]) == (not without_key)
    settings = GUARDED.model_copy(update={"enable_metrics": False})
    assert "/metrics" not in document(settings)["paths"]


@pytest.mark.parametrize("path", ["/generate/text", "/stream/text"])
def test_a_shorter_bound_is_the_default_too(path: str) -> None:
    made = document(Settings(max_duration=3, max_stream_duration=3))
    for content in made["paths"][path]["post"]["requestBody"]["content"].values():
        duration = content["schema"]["properties"]["duration"]
        assert (duration["maximum"], duration["default"]) == (3, 3)


# Answers


def test_every_error_is_described() -> None:
    told = {
        (status, name)
        for status, answer in answers(document(GUARDED))
        if not status.startswith("2") and "allOf" in str(answer)
        for name in types_of(answer)
    }
    every = {errors.ServiceError, *subclasses(errors.ServiceError)} - OF_SOCKETS
    assert told == {(str(error.status), error.type) for error in every}


def subclasses(of: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    direct = set(of.__subclasses__())
    return direct.union(*map(subclasses, direct))


def test_limits_are_told_where_requests_are_counted(plain: dict[str, Any]) -> None:
    counted = {path for (path, _), told in methods(plain).items() if "429" in told["responses"]}
    assert counted == {path for path in COSTLY if not path.startswith("/ws/")}


def test_a_page_may_read_each_header_that_is_described(plain: dict[str, Any]) -> None:
    assert set(plain["components"]["headers"]) - {"WWW-Authenticate"} == set(cors.ANSWER_HEADERS)


def test_every_answer_has_the_id_of_its_request(plain: dict[str, Any]) -> None:
    assert all("X-Request-ID" in answer["headers"] for _, answer in answers(plain))


def test_a_stream_tells_each_of_its_media_types(plain: dict[str, Any]) -> None:
    told = plain["paths"]["/stream/text"]["get"]["responses"]["200"]["content"]
    assert set(told) == {format.media_type for format in StreamFormat}


# Spellings


def field(made: dict[str, Any], name: str, route: str, media_type: str) -> dict[str, Any]:
    content = made["paths"][route]["post"]["requestBody"]["content"]
    found: dict[str, Any] = content[media_type]["schema"]["properties"][name]
    return found


def allows(schema: dict[str, Any], value: Any) -> bool:
    allowed: bool = jsonschema_rs.Draft202012Validator(schema).is_valid(value)
    return allowed


def test_a_blank_prompt_is_one_for_schema_and_server(plain: dict[str, Any]) -> None:
    """Each character that there is, but the mark that only ECMAScript takes for white space."""
    schema = field(plain, "prompt", "/generate/text", "application/json")
    by_ours, by_python = jsonschema_rs.Draft202012Validator(schema), re.compile(schema["pattern"])
    for code in {*range(sys.maxunicode + 1)} - {*range(0xD800, 0xE000), 0xFEFF}:
        character = chr(code)
        assert by_ours.is_valid(character) == bool(character.strip()), hex(code)
        assert bool(by_python.search(character)) == bool(character.strip()), hex(code)


def pattern_of(name: str) -> str:
    schema = field(document(Settings()), name, "/generate/blend", "application/json")
    (text,) = (each for each in schema["anyOf"] if each["type"] == "string")
    return str(text["pattern"])


@given(st.from_regex(pattern_of("text_prompts"), fullmatch=True))
def test_prompts_in_a_text_are_taken(text: str) -> None:
    prompts = BlendRequest(text_prompts=text).text_prompts  # type: ignore[arg-type]
    assert all(prompt.strip() for prompt in prompts)
    if not text.startswith("["):
        assert len(prompts) == text.count(",") + 1


@given(st.from_regex(pattern_of("text_weights"), fullmatch=True))
def test_weights_in_a_text_are_taken(text: str) -> None:
    many = len([part for part in text.strip("[]").split(",") if part])
    request = BlendRequest(text_prompts=["a"] * max(many, 1), text_weights=text)  # type: ignore[arg-type]
    assert len(request.text_weights) == many


@pytest.mark.parametrize(
    ("name", "allowed", "forbidden"),
    [
        ("text_prompts", ["funk", "funk, jazz", '["slow, deep", "b"]'], ["", ",", "a,,b", " "]),
        ("text_weights", ["", "1", "2,-1", "0.5, 1000", "[2.0, 1]"], ["0", "1,", "1001", "-0.0"]),
    ],
)
def test_a_list_in_a_text(
    plain: dict[str, Any], name: str, allowed: list[str], forbidden: list[str]
) -> None:
    for media_type in ("application/json", "application/x-www-form-urlencoded"):
        schema = field(plain, name, "/generate/blend", media_type)
        assert [text for text in allowed if not allows(schema, text)] == []
        assert [text for text in forbidden if allows(schema, text)] == []


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", ["seed", "temperature", "top_k", "guidance", "duration"])
def test_a_switch_is_no_number(name: str, value: bool) -> None:
    with pytest.raises(ValueError, match="must not be true or false"):
        TextRequest(prompt="a", **{name: value})


def test_a_switch_is_no_weight() -> None:
    with pytest.raises(ValueError, match="must not be true or false"):
        BlendRequest(text_prompts=["a"], text_weights=[True])
