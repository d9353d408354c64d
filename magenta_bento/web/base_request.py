"""What every request of the REST API has in common: its uploads, and how lists are spelled.

Invariant: JSON's true is never read as 1, nor 1 as true, and a file field only ever names uploads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, BinaryIO, ClassVar, Union, get_args, get_origin

# bentoml: the base of what an API takes; without it no type of ours could parse for itself.
from _bentoml_sdk import IODescriptor
from bentoml.validators import FileSchema
from pydantic import ConfigDict, PrivateAttr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from starlette.requests import Request

from magenta_bento.config import Settings

# bentoml: it can't make a union of a file and None, as Python wants to hash what is in a union.
FileSchema.__hash__ = lambda file: hash((file.format, file.content_type))


@dataclass(frozen=True)
class Upload:
    """An uploaded file, not looked into yet.

    Attributes:
      filename: As the client named it; only ever shown, never opened.
      file: Its bytes, at their beginning; on disk without a name when large.
    """

    filename: str
    file: BinaryIO


@dataclass(frozen=True)
class Unparsed:
    """What BentoML takes for the parsed fields of a body, and hands on to the API method."""

    request: Request
    model_fields = ("request",)  # bentoml: it reads the method's arguments from these


def is_list(field: FieldInfo) -> bool:
    """Whether a field holds any number of values: a list, or a tuple of any length."""
    return any(
        get_origin(option) is list
        or (get_origin(option) is tuple and get_args(option)[1:] == (Ellipsis,))
        for option in _options(field.annotation)
    )


def _options(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, out of Annotated and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


class ApiRequest(IODescriptor):  # type: ignore[misc]  # BentoML is untyped here
    """Base of all bodies.

    BentoML would parse the body itself, but turns form values into JSON where it can, loses
    file names, fetches URLs that stand in file fields, and words errors its own way. So it only
    gets the request as it came, and ``web.endpoint`` parses.

    Any field that is a list also takes text: its values separated by commas, or a JSON list.
    Words are never written as true or false: ``drums`` is ``on`` here, while a message of
    ``/ws/jam`` may say true.

    Attributes:
      one_of: Fields that are lists, at least one of which has to hold something.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    one_of: ClassVar[tuple[str, ...]] = ()

    _uploads: dict[str, list[Upload]] = PrivateAttr(default_factory=dict)

    # bentoml: it calls this instead of parsing the body.
    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Any:
        return Unparsed(request)

    @classmethod
    def max_values(cls, settings: Settings) -> dict[str, float]:
        """Bounds of fields that are settings: the name of each field, and the most it may be."""
        return {}

    @field_validator("*", mode="before")
    @classmethod
    def _read_spelling(cls, value: Any, info: ValidationInfo) -> Any:
        """Reads a list from text. JSON's true is not 1, and 1 is not true, as Pydantic has it."""
        field = cls.model_fields[str(info.field_name)]
        if is_list(field):
            value = _as_list(value)
        if field.annotation is bool:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                raise ValueError("must be true or false")
        elif any(isinstance(item, bool) for item in (value if type(value) is list else [value])):
            raise ValueError("must not be true or false")
        return value

    def uploads(self, field: str) -> list[Upload]:
        """The files of a file field; the field itself only has their names."""
        return self._uploads.get(field, [])


def _as_list(value: Any) -> Any:
    """A list as itself, a JSON list as what it holds, other text cut at its commas."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list):
            return parsed
    return [item.strip() for item in value.split(",")] if value.strip() else []
