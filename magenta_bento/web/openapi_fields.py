"""The fields of a request as the OpenAPI document describes them, for each way to send them.

The same fields come as JSON, in forms and in queries: JSON may say null, forms send inputs that
were left empty and repeat the fields that are lists, and only multipart forms have files. All of
it is derived from the types of the fields. A list is described in its canonical spelling, an
array in JSON and a repeated field in forms; that text of several values is taken too stands in
its description.

Invariant: what a schema from here allows is taken, but for what JSON Schema can't say: as many
weights as prompts, weights whose sum is positive, a file that is audio, a list of one text that
itself looks like several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magenta_bento.config import Settings
from magenta_bento.web.base_request import ApiRequest
from magenta_bento.web.bodies import JSON, MULTIPART, URLENCODED

Schema = dict[str, Any]

_NULL = {"type": "null"}
_BOOLEANS_IN_A_FORM = [
    True,
    False,
    *("true", "false", "1", "0", "on", "off", "yes", "no", "t", "f", "y", "n"),
]
_LISTS_AS_TEXT = "Text is taken too: values separated by commas, or a JSON list."


def described(model: type[ApiRequest], settings: Settings) -> Schema:
    """The fields of a request, without references and with the bounds that are settings."""
    schema: Schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    schema["properties"] = {
        name: _canonical(field, definitions) for name, field in schema["properties"].items()
    }
    for name, most in model.max_values(settings).items():
        field = schema["properties"][name]
        field["maximum"] = most
        field["default"] = min(field["default"], most)
    if model.one_of:
        schema["anyOf"] = [
            {"required": [name], "properties": {name: {"minItems": 1}}} for name in model.one_of
        ]
    return schema


def _canonical(field: Schema, definitions: Schema) -> Schema:
    if _NULL in field.get("anyOf", ()):
        (option,) = (each for each in field["anyOf"] if each != _NULL)
        field = {**option, **{k: v for k, v in field.items() if k != "anyOf"}}
    if "$ref" in field:
        definition = definitions[field["$ref"].rpartition("/")[2]]
        field = {**definition, **{k: v for k, v in field.items() if k != "$ref"}}
    field = {k: v for k, v in field.items() if k not in ("ge", "le")}  # beside minimum, maximum
    if field.get("default", "") is None:
        del field["default"]  # absent, which is not the same as null
    if field.get("type") == "file":  # bentoml: how its schema of a file differs from others
        rest = {k: v for k, v in field.items() if k not in ("content_type", "format")}
        media_type = field["content_type"]
        return {**rest, "type": "string", "format": "binary", "contentMediaType": media_type}
    if "examples" in field:  # BentoML's Swagger UI fills a form in from the older keyword alone
        field["example"] = field["examples"][0]
    if "items" in field:
        field["items"] = _canonical(field["items"], definitions)
        if not _is_file(field):
            field["description"] = f"{field['description']} {_LISTS_AS_TEXT}"
    return field


def request_body(schema: Schema) -> Schema:
    """The ``requestBody`` of a route whose fields :func:`described` has described."""
    schemas = {MULTIPART: _spelled(schema, _in_a_form)}
    if not set(files_of(schema)) & set(schema.get("required", ())):
        schemas[URLENCODED] = _spelled(_without_files(schema), _in_a_form)
        schemas[JSON] = _spelled(_without_files(schema), _in_json)
    return {"required": True, "content": {name: {"schema": it} for name, it in schemas.items()}}


def query(schema: Schema) -> list[Schema]:
    """The ``parameters`` of a GET route with the same fields, but files."""
    parameters = []
    schema = _without_files(schema)
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        parameter = {"name": name, "in": "query", "required": required, "schema": field}
        if required:  # Swagger UI fills in no example of a schema here
            parameter["example"] = field["examples"][0]
        else:
            parameter["allowEmptyValue"] = True
        parameters.append(parameter)
    return parameters


def files_of(schema: Schema) -> list[str]:
    """The names of its fields that are files."""
    return [name for name, field in schema["properties"].items() if _is_file(field)]


def _without_files(schema: Schema) -> Schema:
    """The same fields where no file can be sent."""
    files = files_of(schema)
    properties = {name: field for name, field in schema["properties"].items() if name not in files}
    left = [each for each in schema.get("anyOf", ()) if not set(each["required"]) & set(files)]
    schema = {**schema, "properties": properties, "anyOf": left}
    if len(left) > 1:
        return schema
    del schema["anyOf"]
    for only in left:
        schema["required"] = [*schema.get("required", ()), *only["required"]]
        for name, bound in only["properties"].items():
            without_default = {k: v for k, v in properties[name].items() if k != "default"}
            properties[name] = {**without_default, **bound}
    return schema


def _spelled(schema: Schema, spelling: Callable[[Schema], Schema]) -> Schema:
    required = schema.get("required", ())
    properties = {
        name: field if _is_file(field) or name in required else spelling(field)
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _in_json(field: Schema) -> Schema:
    """An optional field may be null."""
    nullable = {**field, "type": [field["type"], "null"]}
    return {**nullable, "enum": [*field["enum"], None]} if "enum" in field else nullable


def _in_a_form(field: Schema) -> Schema:
    """An optional input may be left empty."""
    if field["type"] == "array":
        return field  # a list that is left empty is not sent at all
    if field["type"] == "boolean":
        field = {**field, "type": ["boolean", "string"], "enum": _BOOLEANS_IN_A_FORM}
    if "enum" in field:
        return {**field, "enum": [*field["enum"], ""]}
    if field["type"] == "string":
        field = {k: v for k, v in field.items() if k != "minLength"}
        return {**field, "pattern": f"^$|{field['pattern']}"} if "pattern" in field else field
    return {**field, "type": [field["type"], "string"], "maxLength": 0}


def _is_file(field: Schema) -> bool:
    return "binary" in (field.get("format"), field.get("items", {}).get("format"))
