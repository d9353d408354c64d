"""The fields of requests and messages, as pydantic's models and their JSON Schema describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from magenta_bento.controls import Controls
from tools.docs.markdown import listed, table

JsonSchema = Mapping[str, Any]


def request_table(
    model: type[BaseModel], left_out: Iterable[str] = (), defaults: object = None
) -> str:
    """The fields of a model: name, type, default, bounds, meaning.

    Args:
      model: Its fields are named as in JSON, that is by their aliases.
      left_out: Names of fields that the table does not have.
      defaults: An object that has defaults as attributes, where fields have none of their own.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    rows = []
    for name, field in model.model_fields.items():
        if name in left_out:
            continue
        shown_name = field.serialization_alias or field.alias or name
        described = schema["properties"][shown_name]
        default = described.get("default")
        if default is None:
            default = getattr(defaults, name, None)
        value = _value(described, definitions)
        if "const" in value:  # a message's own type, which its section names
            continue
        rows.append(
            (
                f"`{shown_name}`",
                _kind(value, definitions),
                "required" if shown_name in required else _default(default),
                _bounds(value, definitions),
                _meaning(name, described, value),
            )
        )
    return table(("Field", "Type", "Default", "Bounds", "Meaning"), rows)


def answer_table(model: type[BaseModel]) -> str:
    """The fields of what the server sends: name, type, meaning."""
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    definitions = schema.get("$defs", {})
    rows = []
    for field, described in schema["properties"].items():
        value = _value(described, definitions)
        if "const" in value:
            continue
        kinds = [_kind(value, definitions)]
        if {"type": "null"} in described.get("anyOf", ()):
            kinds.append("null")
        rows.append((f"`{field}`", " or ".join(kinds), _meaning(field, described, value)))
    return table(("Field", "Type", "Meaning"), rows)


def _value(field: JsonSchema, definitions: JsonSchema) -> JsonSchema:
    """The schema of a field's value, where it may also be null or stands elsewhere."""
    for option in field.get("anyOf", ()):
        if option.get("type") != "null":
            return _value(option, definitions)
    if "$ref" in field:
        target: JsonSchema = definitions[field["$ref"].rpartition("/")[2]]
        return target
    return field


def _kind(value: JsonSchema, definitions: JsonSchema) -> str:
    if "enum" in value:
        return listed(value["enum"])
    if value.get("format") == "audio":
        return "file"
    if value.get("type") == "array":
        return f"list of {_kind(_value(value['items'], definitions), definitions)}s"
    if value.get("type") == "object":
        return str(value.get("title", "object")).lower()
    return "text" if value["type"] == "string" else str(value["type"])


def _default(default: object) -> str:
    if default is None:
        return "absent"
    if default == []:
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _meaning(name: str, described: JsonSchema, value: JsonSchema) -> str:
    """A field's own description, else that of its value or of the control of the same name."""
    if "description" in described:
        return str(described["description"])
    if "description" in value and "enum" not in value:  # an enumeration's is its class's
        return str(value["description"])
    control = Controls.model_fields.get(name)
    return "" if control is None else str(control.description)


def _bounds(value: JsonSchema, definitions: JsonSchema) -> str:
    parts = [
        _range(value, "minimum", "maximum", ""),
        _range(value, "minLength", "maxLength", " characters"),
        _range(value, "minItems", "maxItems", " items"),
    ]
    if "multipleOf" in value:
        parts.append(f"in steps of {value['multipleOf']}")
    if "const" in value.get("not", {}):
        parts.append(f"not {value['not']['const']}")
    if value.get("type") == "array":
        each = _bounds(_value(value["items"], definitions), definitions)
        parts.append(f"each {each}" if each else "")
    return ", ".join(part for part in parts if part)


def _range(value: JsonSchema, least: str, most: str, unit: str) -> str:
    lowest, highest = value.get(least), value.get(most)
    if highest is None and isinstance(value.get("exclusiveMaximum"), int):
        highest = value["exclusiveMaximum"] - 1 if most == "maximum" else None
    if lowest is not None and highest is not None:
        return f"{_number(lowest)} to {_number(highest)}{unit}"
    if lowest is not None:
        return f"at least {_number(lowest)}{unit}"
    if highest is not None:
        return f"at most {_number(highest)}{unit}"
    if most == "maximum" and "exclusiveMinimum" in value:
        return f"above {_number(value['exclusiveMinimum'])}"
    return ""


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"
