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
from pydantic import Field, SecretStr

from magenta_bento import errors
from magenta_bento.audio.formats import StreamFormat
from magenta_bento.config import Settings
from magenta_bento.web import openapi, openapi_fields
from magenta_bento.web.base_request import is_list
from magenta_bento.web.request_models import AudioFile, BlendRequest, TextRequest
from magenta_bento.web.routes import ROUTES, SOCKET, KeyRequirement

# What only a live connection is told.
OPEN = {route.path for route in ROUTES if route.api_key is KeyRequirement.NEVER}
OF_SOCKETS = {errors.SlowReader, errors.IdleSession}
GUARDED = Settings(enable_auth=True, api_keys=SecretStr("name:a-key-that-nobody-else-has"))


def document(settings: Settings) -> dict[str, Any]:
    made = openapi.document(settings)
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
    assert counted == {route.path for route in ROUTES if route.counted and route.methods != SOCKET}


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


@pytest.mark.parametrize("route", ["/generate/blend", "/generate/text"])
@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data"])
def test_a_list_is_an_array_that_may_be_written_as_text(
    plain: dict[str, Any], route: str, media_type: str
) -> None:
    model = next(each.request for each in ROUTES if each.path == route)
    assert model is not None
    lists = [name for name, field in model.model_fields.items() if is_list(field)]
    assert "notes" in lists
    for name in set(lists) - set(model.multipart_fields):
        schema = field(plain, name, route, media_type)
        assert "array" in schema["type"]
        assert "separated by commas" in schema["description"]
        assert not allows(schema, "1, 2")


CONTROLS = {
    "drums": (["on", "off", "auto"], ["loud", True, False, 1]),
    "notes": ([[], [60], [0, 127]], [[128], [-1], [1.5], ["c"], "60", 60]),
    "notes_mode": (["guide", "strict"], ["free", 0]),
    "notes_width": ([0, 127], [-1, 128, 0.5]),
    "style_levels": ([1, 12], [0, 13, "1"]),
    "notes_guidance": ([-1, 6.8, 0.2], [-1.1, 7, "1"]),
    "drums_guidance": ([-1, 6], [6.1, True]),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_in_json_is_what_the_request_takes(plain: dict[str, Any], name: str) -> None:
    allowed, forbidden = CONTROLS[name]
    schema = field(plain, name, "/generate/text", "application/json")
    assert [value for value in [*allowed, None] if not allows(schema, value)] == []
    assert [value for value in forbidden if allows(schema, value)] == []
    for value in allowed:
        TextRequest(prompt="a", **{name: value})


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_in_a_query_may_be_left_empty(plain: dict[str, Any], name: str) -> None:
    (parameter,) = (
        each for each in plain["paths"]["/stream/text"]["get"]["parameters"] if each["name"] == name
    )
    assert parameter["allowEmptyValue"]
    assert not parameter["required"]
    allowed, forbidden = CONTROLS[name]
    assert [value for value in allowed if not allows(parameter["schema"], value)] == []
    assert [value for value in forbidden if allows(parameter["schema"], value)] == []


class WithAnOptionalFile(TextRequest):
    """What no route has yet."""

    audio_file: AudioFile | None = Field(None, description="Audio to go on from.")


def test_an_optional_file_asks_for_nothing_where_no_file_can_be_sent() -> None:
    described = openapi_fields.described(WithAnOptionalFile, Settings())
    assert openapi_fields.files_of(described) == ["audio_file"]
    content = openapi_fields.request_body(described)["content"]
    schemas = {media_type: each["schema"] for media_type, each in content.items()}
    assert {name: each["required"] for name, each in schemas.items()} == {
        "multipart/form-data": ["prompt"],
        "application/x-www-form-urlencoded": ["prompt"],
        "application/json": ["prompt"],
    }
    with_file = {name for name, each in schemas.items() if "audio_file" in each["properties"]}
    assert with_file == {"multipart/form-data"}
    file = schemas["multipart/form-data"]["properties"]["audio_file"]
    assert (file["type"], file["format"]) == ("string", "binary")
    assert all("anyOf" not in each for each in schemas.values())


def test_prompts_of_a_blend_are_due_in_one_field_or_the_other(plain: dict[str, Any]) -> None:
    content = plain["paths"]["/generate/blend"]["post"]["requestBody"]["content"]
    one_of = [each["required"] for each in content["multipart/form-data"]["schema"]["anyOf"]]
    assert one_of == [["text_prompts"], ["audio_files"]]
    json_schema = content["application/json"]["schema"]
    assert json_schema["required"] == ["text_prompts"]
    assert json_schema["properties"]["text_prompts"]["minItems"] == 1
    assert not {"anyOf", "audio_files"} & {*json_schema, *json_schema["properties"]}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", ["seed", "temperature", "top_k", "duration", "drums", "notes"])
def test_a_switch_is_no_number(name: str, value: bool) -> None:
    with pytest.raises(ValueError, match="must not be true or false"):
        TextRequest(prompt="a", **{name: value})


def test_a_switch_is_no_weight() -> None:
    with pytest.raises(ValueError, match="must not be true or false"):
        BlendRequest(text_prompts=["a"], text_weights=[True])
