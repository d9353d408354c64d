"""The OpenAPI document: BentoML's own, with what it can't know put in.

BentoML describes the fields of each body. Added here are the other media types that every
route takes, the audio and its headers, the one error shape, and the routes beside the API.

Invariant: every status that a route answers with is in its description.
"""

from __future__ import annotations

import json
from typing import Any

from magenta_bento import __version__
from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.config import Settings

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "type", "detail"],
    "properties": {
        "error": {"type": "string", "description": "One sentence for a person."},
        "type": {"type": "string", "description": "What kind of error; stable."},
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                    "value": {"type": "string"},
                },
            },
        },
    },
}
_TAGS = {"generate": "Generate", "stream": "Stream", "embed": "Embed", "prompts": "Embed"}
_ALSO_GET = ("/stream/text", "/stream/blend")
_UNUSED_SCHEMAS = ("TaskStatusResponse", "InvalidArgument", "NotFound", "InternalServerError")
_ERRORS = {
    "400": "A field is wrong; detail names each.",
    "413": "The body is too large.",
    "415": "The body is neither a form nor JSON.",
    "500": "The model failed.",
    "503": "Loading, draining, or the queue is full; Retry-After says when to come back.",
}
_STREAM_HEADERS = ("X-Seed", "X-Model")
_AUDIO_HEADERS = {
    "Content-Disposition": "A file name made from the prompt.",
    "X-Seed": "The seed that makes this piece again.",
    "X-Model": "The model that made it.",
    "X-Audio-Duration": "Its length, seconds.",
    "X-Generation-Time": "From admission to the finished file, seconds.",
    "X-Realtime-Factor": "Seconds of audio per second of generation time.",
}


def document(bentoml_document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The document that /docs.json serves.

    Args:
      bentoml_document: What BentoML makes of the service.
      settings: For the bounds that are settings.
    """
    made: dict[str, Any] = json.loads(
        json.dumps(bentoml_document)
    )  # a copy whose keys are all text
    made["info"] = {
        "title": "Magenta Bento",
        "version": __version__,
        "description": "Music from Google's Magenta RealTime 2: from text, from audio, or from a"
        " blend of both.",
    }
    made["openapi"] = "3.1.0"  # BentoML's schemas are pydantic's, which are 3.1's
    schemas = made["components"]["schemas"]
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    for schema in schemas.values():
        _mend(schema)
    schemas["Error"] = ERROR_SCHEMA
    paths = {}
    for path, item in made["paths"].items():
        post = item.get("post")
        if post is None:
            continue
        post["responses"] = {"200": _success(path, post), **_errors()}
        is_stream = path.startswith("/stream")
        longest = settings.max_stream_duration if is_stream else settings.max_duration
        post["requestBody"] = _request_body(post, longest)
        post["tags"] = [_TAGS[path.split("/")[1]]]
        paths[path] = {"post": post}
        if path in _ALSO_GET:
            paths[path]["get"] = _as_get(post)
    made["paths"] = {**paths, **_beside()}
    made["tags"] = [{"name": name} for name in (*dict.fromkeys(_TAGS.values()), "Server")]
    return made


def _success(path: str, post: dict[str, Any]) -> dict[str, Any]:
    if not path.startswith("/generate"):
        success: dict[str, Any] = post["responses"]["200"]
        for content in success["content"].values():
            _mend(content["schema"])
        return {**success, "description": "The embedding and its tokens."}
    binary = {"schema": {"type": "string", "format": "binary"}}
    is_stream = path.startswith("/stream")
    return {
        "description": "Audio, 48 kHz, stereo: " + ("as it is made." if is_stream else "a file."),
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in _AUDIO_HEADERS.items()
            if name in _STREAM_HEADERS or not is_stream
        },
        "content": {
            format.media_type: binary for format in (StreamFormat if is_stream else AudioFormat)
        },
    }


def _as_get(post: dict[str, Any]) -> dict[str, Any]:
    """The same API with its fields in the query."""
    schema = post["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    get = {k: v for k, v in post.items() if k not in ("requestBody", "operationId")}
    get["parameters"] = [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": field,
        }
        for name, field in schema["properties"].items()
        if not name.startswith("audio_")
    ]
    return get


def _request_body(post: dict[str, Any], max_duration_s: float) -> dict[str, Any]:
    ((media_type, content),) = post["requestBody"]["content"].items()
    schema = content["schema"]
    schema["additionalProperties"] = False
    _mend(schema)
    if duration := schema["properties"].get("duration"):
        duration["maximum"] = max_duration_s
        duration["default"] = min(duration["default"], max_duration_s)
    media_types = ["multipart/form-data", "application/x-www-form-urlencoded", "application/json"]
    takes_file = media_type == "multipart/form-data"
    needs_file = takes_file and "audio_file" in schema.get("required", [])
    offered = media_types[:1] if needs_file else media_types
    return {"required": True, "content": {name: {"schema": schema} for name in offered}}


def _mend(schema: dict[str, Any]) -> None:
    """Turns what BentoML writes beside the standard into what the standard has."""
    for field in schema.get("properties", {}).values():
        if field.get("default", "") is None:
            del field["default"]  # absent, which is not the same as null
        for value in (field, field.get("items", {})):
            if value.get("type") == "file":
                value |= {"type": "string", "format": "binary"}
                value["contentMediaType"] = value.pop("content_type", "application/octet-stream")


def _errors() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        status: {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, text in _ERRORS.items()
    }


def _beside() -> dict[str, Any]:
    """The GET routes that are not BentoML's APIs."""
    answer = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/health": {
            "get": {
                "tags": ["Server"],
                "summary": "Whether the model is loaded, and which",
                "responses": {
                    "200": {"description": "Healthy.", "content": answer},
                    "503": {"description": "Loading, draining or failed.", "content": answer},
                },
            }
        },
        "/metrics": {
            "get": {
                "tags": ["Server"],
                "summary": "Prometheus metrics",
                "responses": {
                    "200": {
                        "description": "The metrics.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    }
                },
            }
        },
    }
