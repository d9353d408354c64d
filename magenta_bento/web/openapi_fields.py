"""The fields of a request as the OpenAPI document tells them, for each way to send them.

The same fields come as JSON, in forms and in queries, but each has spellings of its own: JSON
has null, forms have inputs that were left empty, lists as text and files.

Invariant: what a schema from here allows is taken, but for what JSON Schema can't say: as many
weights as prompts, weights whose sum is positive, a file that is audio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magenta_bento.web.bodies import JSON, MULTIPART, URLENCODED
from magenta_bento.web.requests import MAX_PROMPT_CHARS, MAX_TEXT_PROMPTS

Schema = dict[str, Any]

_LISTED_FROM = {"text_prompts": "string", "text_weights": "number", "audio_weights": "number"}
_TOLD = ("title", "description", "examples")
_NULL = {"type": "null"}
_SWITCHES = [
    True,
    False,
    *("true", "false", "1", "0", "on", "off", "yes", "no", "t", "f", "y", "n"),
]
_ONLY_BESIDE_FILES = ("audio_weights",)
_NOT_BLANK = r"[^\s\x1c-\x1f\x85"  # left open, for what else it must not be
_NUMBER = r"-?([1-9][0-9]{0,2}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9]|1000)"
_QUOTED = rf'"{_NOT_BLANK}\x00-\x1b"\\][^"\\\x00-\x1f]*"'  # a JSON string without escapes
_FIRST = rf"{_NOT_BLANK},\[][^,]*"  # a text that begins with a bracket may be JSON
_NEXT = rf"{_NOT_BLANK},][^,]*"


def _list_of(first: str, item: str) -> str:
    return rf"{first}( *, *{item}){{0,{MAX_TEXT_PROMPTS - 1}}}"


_AS_TEXT = {
    "string": rf"{_list_of(_FIRST, _NEXT)}|\[{_list_of(_QUOTED, _QUOTED)}\]",
    "number": rf"{_list_of(_NUMBER, _NUMBER)}|\[{_list_of(_NUMBER, _NUMBER)}\]",
}


def resolved(schema: Schema, components: Schema) -> Schema:
    """A body as BentoML describes it, in the words of the standard and without references.

    Args:
      schema: Of an object.
      components: What its references lead to, by name.
    """
    properties = {
        name: _resolved(field, components) for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties, "additionalProperties": False}


def _resolved(field: Schema, components: Schema) -> Schema:
    if _NULL in field.get("anyOf", ()):
        (option,) = (each for each in field["anyOf"] if each != _NULL)
        field = {**option, **{k: v for k, v in field.items() if k != "anyOf"}}
    if "$ref" in field:
        target = components[field["$ref"].rpartition("/")[2]]
        field = {**target, **{k: v for k, v in field.items() if k != "$ref"}}
    field = {k: v for k, v in field.items() if k not in ("ge", "le")}  # pydantic's, beside ours
    if field.get("default", "") is None:
        del field["default"]  # absent, which is not the same as null
    if field.get("format") == "binary":
        field["contentMediaType"] = "audio/*"
    if "items" in field:
        field["items"] = _resolved(field["items"], components)
    return field


def files_of(schema: Schema) -> list[str]:
    """The names of its fields that are files."""
    return [name for name, field in schema["properties"].items() if _is_file(field)]


def request_body(schema: Schema) -> Schema:
    """The ``requestBody`` of a route whose fields :func:`resolved` has described."""
    schemas = {MULTIPART: _multipart(schema)}
    if not set(files_of(schema)) & set(schema.get("required", ())):
        schemas[URLENCODED] = _each(_without_files(schema), _in_a_form)
        schemas[JSON] = _each(_without_files(schema), _in_json)
    return {"required": True, "content": {name: {"schema": it} for name, it in schemas.items()}}


def query(schema: Schema) -> list[Schema]:
    """The ``parameters`` of a GET route with the same fields, but files."""
    found = []
    schema = _without_files(schema)
    for name, field in schema["properties"].items():
        required = name in schema["required"]
        told = _listed_in_a_form(name, field, required) if name in _LISTED_FROM else field
        parameter = {"name": name, "in": "query", "required": required, "schema": told}
        if required:  # Swagger UI fills in no example of a schema here
            parameter["example"] = field["examples"][0]
        else:
            parameter["allowEmptyValue"] = True
        found.append(parameter)
    return found


def _multipart(schema: Schema) -> Schema:
    body, files = _each(schema, _in_a_form), files_of(schema)
    if not files or schema.get("required"):
        return body
    prompts = {"text_prompts": {"minItems": 1, "minLength": 1}, files[0]: {"minItems": 1}}
    one_of = [{"required": [name], "properties": {name: has}} for name, has in prompts.items()]
    return {**body, "anyOf": one_of}


def _without_files(schema: Schema) -> Schema:
    """Where no file can be sent, text has to say what the music is like."""
    files = files_of(schema)
    if not files:
        return schema
    gone = (*files, *_ONLY_BESIDE_FILES)
    properties = {name: field for name, field in schema["properties"].items() if name not in gone}
    return {**schema, "properties": properties, "required": ["text_prompts"]}


def _each(schema: Schema, spelled: Callable[[str, Schema, bool], Schema]) -> Schema:
    required = schema.get("required", ())
    properties = {
        name: field if _is_file(field) else spelled(name, field, name in required)
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _in_json(name: str, field: Schema, required: bool) -> Schema:
    if name in _LISTED_FROM:
        kind = _LISTED_FROM[name]
        single = [field["items"]] if kind == "number" else []
        null = [] if required else [_NULL]
        return _any(field, _array(field, required), *single, _text(kind, required), *null)
    if required:
        return field
    nullable = {**field, "type": [field["type"], "null"]}
    return {**nullable, "enum": [*field["enum"], None]} if "enum" in field else nullable


def _in_a_form(name: str, field: Schema, required: bool) -> Schema:
    """An optional input may be left empty, and a list given once is a text that holds it."""
    if name in _LISTED_FROM:
        return _listed_in_a_form(name, field, required)
    if required:
        return field
    if field["type"] == "boolean":
        field = {**field, "type": ["boolean", "string"], "enum": _SWITCHES}
    if "enum" in field:
        return {**field, "enum": [*field["enum"], ""]}
    if field["type"] == "string":
        shown = {k: v for k, v in field.items() if k != "minLength"}
        return {**shown, "pattern": f"^$|{field['pattern']}"}
    return {**field, "type": [field["type"], "string"], "maxLength": 0}


def _listed_in_a_form(name: str, field: Schema, required: bool) -> Schema:
    repeated = {**_array(field, required), "minItems": 2}
    return _any(field, repeated, _text(_LISTED_FROM[name], required))


def _any(field: Schema, *options: Schema) -> Schema:
    told = {k: v for k, v in field.items() if k in _TOLD}
    bare = [{k: v for k, v in each.items() if told.get(k) != v} for each in options]
    return {**told, "anyOf": bare}


def _array(field: Schema, required: bool) -> Schema:
    bounds = {"minItems": 1} if required else {}
    return {k: v for k, v in field.items() if k in ("type", "items", "maxItems")} | bounds


def _text(kind: str, required: bool) -> Schema:
    """A list in one text, which is no longer than a prompt may be: then none in it is."""
    pattern = f"^({_AS_TEXT[kind]})$" if required else f"^({_AS_TEXT[kind]})?$"
    title = "Separated by commas, or a JSON list"
    return {"type": "string", "title": title, "maxLength": MAX_PROMPT_CHARS, "pattern": pattern}


def _is_file(field: Schema) -> bool:
    return "binary" in (field.get("format"), field.get("items", {}).get("format"))
