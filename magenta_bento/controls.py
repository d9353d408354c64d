"""What music can be told beside its style, in one place.

A control is a field of :class:`Controls`: its name, bounds, default and meaning stand here and
nowhere else. The fields of the REST API, the messages of ``/ws/jam``, what Lyria RealTime's
configuration maps to, OpenAPI, ``magenta-bento controls`` and the documents' tables are derived
from it, and one object travels whole from the request to ``conditioning``. So a new control is one
field here and one line there.

Invariant: controls that exist are within their bounds, and none that a client sends is dropped.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from magenta_rt import config as upstream
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

PITCHES = upstream.PIANOROLL_WITH_ONSETS.rvq_truncation_level  # MIDI's 128
STYLE_LEVELS = upstream.MUSICCOCA.rvq_truncation_level
CODES_PER_LEVEL = upstream.SPECTROSTREAM.codebook_size
LOWEST_GUIDANCE = -1.0
# One bin further, upstream's guidance of 7, the model reads the embedding of another channel.
HIGHEST_GUIDANCE = 6.8
HIGHEST_DRUMS_GUIDANCE = 6.0
MAX_SEED = 2**32 - 1


class Drums(StrEnum):
    """Whether drums play."""

    auto = "auto"
    on = "on"
    off = "off"


class NotesMode(StrEnum):
    """What the pitches do that are not held."""

    guide = "guide"
    strict = "strict"


def _drums_of_a_switch(value: Any) -> Any:
    """Messages of ``/ws/jam`` may say true, false and null for on, off and auto."""
    if value is None:
        return Drums.auto
    if isinstance(value, bool):
        return Drums.on if value else Drums.off
    return value


Pitch = Annotated[int, Field(ge=0, lt=PITCHES)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


def seed_or_random(seed: int | None) -> int:
    """The seed itself, or a fresh random one in place of None."""
    return secrets.randbelow(MAX_SEED + 1) if seed is None else seed


class Controls(BaseModel):
    """The controls of a piece of music, complete and valid; a base of requests and messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(
        default=1.3,
        ge=0,
        le=4,
        allow_inf_nan=False,
        description="How freely codes are drawn; 0 always takes the likeliest.",
    )
    top_k: int = Field(
        default=40,
        ge=1,
        le=CODES_PER_LEVEL,
        description="How many of the likeliest codes may be drawn.",
    )
    guidance: float = Field(
        default=3.0,
        ge=LOWEST_GUIDANCE,
        le=HIGHEST_GUIDANCE,
        allow_inf_nan=False,
        description="How closely the music follows the prompts, in steps of 0.2.",
    )
    notes_guidance: float = Field(
        default=1.0,
        ge=LOWEST_GUIDANCE,
        le=HIGHEST_GUIDANCE,
        allow_inf_nan=False,
        description="How closely it follows the notes, in steps of 0.2.",
    )
    drums_guidance: float = Field(
        default=1.0,
        ge=LOWEST_GUIDANCE,
        le=HIGHEST_DRUMS_GUIDANCE,
        allow_inf_nan=False,
        description="How closely it follows drums, in steps of 1.",
    )
    drums: Annotated[Drums, BeforeValidator(_drums_of_a_switch)] = Field(
        default=Drums.auto,
        description="on plays drums, off plays none, auto leaves it to the model.",
    )
    notes: Annotated[tuple[Pitch, ...], Field(max_length=PITCHES)] | None = Field(
        default=None,
        description="MIDI pitches that are held, 60 being middle C; absent or null leaves all"
        " pitches to the model.",
        examples=[[60, 64, 67]],
    )
    notes_mode: NotesMode = Field(
        default=NotesMode.guide,
        description="What other pitches do while notes are given: guide leaves them to the model,"
        " which accompanies; strict silences them.",
    )
    notes_width: int = Field(
        default=0,
        ge=0,
        lt=PITCHES,
        description="In guide, other pitches within so many semitones of a held one are silent.",
    )
    style_levels: int = Field(
        default=STYLE_LEVELS,
        ge=1,
        le=STYLE_LEVELS,
        description="How many of the style's tokens are given, from coarse to fine; fewer leave"
        " more to the model.",
    )

    def controls(self) -> Controls:
        """The controls alone, of a request or message that has further fields."""
        return Controls.model_construct(
            **{name: getattr(self, name) for name in Controls.model_fields}
        )

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These controls with some replaced.

        Args:
          changes: Name to value. None is a change where it is a value of the control, and
            otherwise none.

        Raises:
          ValidationError: A value is out of its bounds.
        """
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        replaced = {
            name: value for name, value in changes.items() if value is not None or _takes_null(name)
        }
        return self.model_validate({**kept, **replaced})


@functools.cache
def _takes_null(name: str) -> bool:
    """Whether None is a value of this control."""
    try:
        Controls.model_validate({name: None})
    except ValidationError:
        return False
    return True


@dataclass(frozen=True)
class DescribedControl:
    """One control, in words."""

    name: str
    default: str
    values: str
    meaning: str


def describe(model: type[Controls] = Controls) -> list[DescribedControl]:
    """Every control with its default, its values and its meaning, in declaration order."""
    schema = model.model_json_schema()
    return [
        DescribedControl(
            name=name,
            default="" if field.default is None else str(field.default),
            values=_values(schema["properties"][name], schema["$defs"]),
            meaning=field.description or "",
        )
        for name, field in model.model_fields.items()
    ]


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The bounds of a number, the names of an enumeration, or of what a list is."""
    field = next((each for each in field.get("anyOf", ()) if each.get("type") != "null"), field)
    if "$ref" in field:
        field = definitions[field["$ref"].rpartition("/")[2]]
    if "enum" in field:
        return ", ".join(field["enum"])
    if field["type"] == "array":
        return f"list of {_values(field['items'], definitions)}"
    highest = field["exclusiveMaximum"] - 1 if "exclusiveMaximum" in field else field["maximum"]
    return f"{field['minimum']:g} to {highest:g}"


def make_optional(model: type[BaseModel]) -> type[Any]:
    """A model with the same fields, none of which has to be there: a base of change messages.

    A field that is absent, or null, is None; ``model_fields_set`` tells which were there.
    """
    fields: dict[str, Any] = {
        name: (
            Annotated[field.annotation, Field(), *field.metadata] | None,
            Field(None, description=field.description, examples=field.examples),
        )
        for name, field in model.model_fields.items()
    }
    made: type[Any] = create_model(
        f"{model.__name__}Changes", __config__=model.model_config, **fields
    )
    return made
