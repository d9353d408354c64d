"""The controls: bounds, changes, and that one line makes a control everywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, Field, ValidationError

from magenta_bento.cli import main
from magenta_bento.config import Settings
from magenta_bento.controls import (
    MAX_SEED,
    Controls,
    Drums,
    describe,
    make_optional,
    seed_or_random,
)
from magenta_bento.live.jam_messages import CLIENT, Start, Update
from magenta_bento.live.lyria_messages import MusicGenerationConfig
from magenta_bento.web import openapi_fields
from magenta_bento.web.request_models import TextPrompt
from tools.docs.fields import request_table

PROMPTS = [{"text": "disco funk"}]
EVERY: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 7,
    "guidance": 2.0,
    "notes_guidance": 4.0,
    "drums_guidance": 5.0,
    "drums": "on",
    "notes": [60, 64],
    "notes_mode": "strict",
    "notes_width": 3,
    "style_levels": 6,
}


def test_every_control_is_tried_here() -> None:
    assert EVERY.keys() == Controls.model_fields.keys()
    defaults = Controls().model_dump(mode="json")
    assert all(EVERY[name] != defaults[name] for name in EVERY)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("temperature", 0, 4),
        ("top_k", 1, 1_024),
        ("guidance", -1, 6.8),
        ("notes_guidance", -1, 6.8),
        ("drums_guidance", -1, 6),
        ("notes_width", 0, 127),
        ("style_levels", 1, 12),
    ],
)
def test_bounds(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(Controls.model_validate({name: value}), name) == value
    beyond = (low - 1, high + 1, high + 0.01, math.nan, math.inf, -math.inf, None, "much", [1])
    for wrong in beyond:
        with pytest.raises(ValidationError, match=name):
            Controls.model_validate({name: wrong})


@pytest.mark.parametrize("notes", [[-1], [128], [60.5], ["c"], [None], 60, [60] * 129])
def test_wrong_notes(notes: Any) -> None:
    with pytest.raises(ValidationError, match="notes"):
        Controls.model_validate({"notes": notes})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *((name, name) for name in Drums),
        (True, Drums.on),
        (False, Drums.off),
        (None, Drums.auto),
    ],
)
def test_drums_may_be_a_switch(given: Any, meant: Drums) -> None:
    assert Controls.model_validate({"drums": given}).drums is meant


@pytest.mark.parametrize("wrong", [1, 0, "loud", [], {}])
def test_wrong_drums(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="drums"):
        Controls.model_validate({"drums": wrong})


def test_a_change_replaces_what_it_has_and_no_more() -> None:
    all_changed = Controls().changed(EVERY)
    assert all_changed.model_dump(mode="json") == EVERY
    assert all_changed.changed({}) == all_changed
    for name, value in Controls().model_dump().items():
        once = all_changed.changed({name: value})
        assert getattr(once, name) == value
        others = {other: v for other, v in once.model_dump(mode="json").items() if other != name}
        assert others == {other: v for other, v in EVERY.items() if other != name}


def test_null_is_a_change_only_where_it_is_a_value() -> None:
    changed = Controls().changed(EVERY).changed(dict.fromkeys(EVERY))
    assert changed.model_dump(mode="json") == {**EVERY, "drums": "auto", "notes": None}


def test_a_change_is_checked() -> None:
    with pytest.raises(ValidationError, match="top_k"):
        Controls().changed({"top_k": 0})
    with pytest.raises(ValidationError, match="tempo"):
        Controls().changed({"tempo": 120})


def test_start_takes_every_control_and_drops_none() -> None:
    start = CLIENT.validate_python({"type": "start", "prompts": PROMPTS, **EVERY})
    assert isinstance(start, Start)
    assert start.controls().model_dump(mode="json") == EVERY
    assert type(start.controls()) is Controls
    least = CLIENT.validate_python({"type": "start", "prompts": PROMPTS})
    assert isinstance(least, Start)
    assert least.controls() == Controls()


def test_update_takes_every_control_and_drops_none() -> None:
    update = CLIENT.validate_python({"type": "update", **EVERY})
    assert isinstance(update, Update)
    assert Controls().changed(update.changes()).model_dump(mode="json") == EVERY
    for name, value in EVERY.items():
        one = CLIENT.validate_python({"type": "update", name: value})
        assert isinstance(one, Update)
        assert one.changes().keys() == {name}
    nothing = CLIENT.validate_python({"type": "update"})
    assert isinstance(nothing, Update)
    assert nothing.changes() == {}


@pytest.mark.parametrize("name", [name for name in EVERY if name != "drums"])
def test_update_has_the_bounds_of_start(name: str) -> None:
    for wrong in (-2, 5_000, "much", math.nan):
        for message in ({"type": "start", "prompts": PROMPTS}, {"type": "update"}):
            with pytest.raises(ValidationError, match=name):
                CLIENT.validate_python({**message, name: wrong})


def test_lyrias_configuration_leads_to_ours() -> None:
    defaults = Controls(temperature=1.1, guidance=4.0)
    assert MusicGenerationConfig().controls(defaults) == defaults
    config = MusicGenerationConfig.model_validate(
        {"temperature": 0.5, "topK": 7, "guidance": 6.0, "muteDrums": True, "bpm": 90}
    )
    assert config.controls(defaults) == Controls(
        temperature=0.5, top_k=7, guidance=6.0, drums=Drums.off
    )


class Another(Controls):
    """An imaginary control, by one line."""

    foo: float = Field(default=0.5, ge=0, le=2, description="How much foo.")


def test_one_line_makes_a_control_of_messages() -> None:
    class AnotherUpdate(make_optional(Another)):  # type: ignore[misc]
        pass

    assert AnotherUpdate().foo is None
    assert AnotherUpdate(foo=1.5).model_fields_set == {"foo"}
    with pytest.raises(ValidationError, match="foo"):
        AnotherUpdate(foo=3)
    schema = AnotherUpdate.model_json_schema()["properties"]["foo"]
    assert schema["description"] == "How much foo."
    assert schema["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert Another().changed({"foo": 2}).foo == 2


class AnotherRequest(TextPrompt, Another):
    """A request of music with the imaginary control."""


def test_one_line_makes_a_control_of_requests_and_their_document() -> None:
    request = AnotherRequest.model_validate({"prompt": "funk", "foo": 1.5})
    assert request.foo == 1.5
    with pytest.raises(ValidationError, match="foo"):
        AnotherRequest.model_validate({"prompt": "funk", "foo": 3})
    schema = openapi_fields.described(AnotherRequest, Settings())
    in_json = openapi_fields.request_body(schema)["content"]["application/json"]["schema"]
    foo = in_json["properties"]["foo"]
    assert (foo["minimum"], foo["maximum"], foo["description"]) == (0, 2, "How much foo.")
    assert "foo" in {parameter["name"] for parameter in openapi_fields.query(schema)}


def test_one_line_makes_a_control_of_the_documents() -> None:
    assert "| `foo` | number | `0.5` | 0 to 2 | How much foo. |" in request_table(Another)


def test_one_line_makes_a_control_of_the_command_line() -> None:
    (row,) = (row for row in describe(Another) if row.name == "foo")
    assert (row.default, row.values, row.meaning) == ("0.5", "0 to 2", "How much foo.")


def test_the_command_lists_every_control() -> None:
    printed = CliRunner().invoke(main, ["controls"]).output.splitlines()
    assert [line.split()[0] for line in printed[1:]] == list(Controls.model_fields)
    (top_k,) = (line for line in printed if line.startswith("top_k"))
    assert "1 to 1024" in top_k
    (notes,) = (line for line in printed if line.startswith("notes "))
    assert "list of 0 to 127" in notes


def test_a_request_that_has_more_is_told_apart_from_its_controls() -> None:
    class Request(Controls, BaseModel):
        title: str

    request = Request(title="a", top_k=3)
    assert request.controls() == Controls(top_k=3)


def test_seeds() -> None:
    assert seed_or_random(0) == 0
    drawn = {seed_or_random(None) for _ in range(50)}
    assert len(drawn) > 40
    assert all(0 <= seed <= MAX_SEED for seed in drawn)
