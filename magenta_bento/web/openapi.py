"""The OpenAPI document: BentoML's own, with what it can't know put in.

BentoML describes the fields of each body. Added here are the other media types that every
route takes, the audio and its headers, the one error shape, and the routes beside the API.

Invariant: every status that a route answers with is in its description.
"""

from __future__ import annotations

import json
from typing import Any

from magenta_bento import __version__
from magenta_bento.audio.formats import AudioFormat

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
_UNUSED_SCHEMAS = ("TaskStatusResponse", "InvalidArgument", "NotFound", "InternalServerError")
_ERRORS = {
    "400": "A field is wrong; detail names each.",
    "413": "The body is too large.",
    "415": "The body is neither a form nor JSON.",
    "500": "The model failed.",
    "503": "Loading, draining, or the queue is full; Retry-After says when to come back.",
}
_AUDIO_HEADERS = {
    "Content-Disposition": "A file name made from the prompt.",
    "X-Seed": "The seed that makes this piece again.",
    "X-Model": "The model that made it.",
    "X-Audio-Duration": "Its length, seconds.",
    "X-Generation-Time": "From admission to the finished file, seconds.",
    "X-Realtime-Factor": "Seconds of audio per second of generation time.",
}


def document(bentoml_document: dict[str, Any], max_duration_s: float) -> dict[str, Any]:
    """The document that /docs.json serves.

    Args:
      bentoml_document: What BentoML makes of the service.
      max_duration_s: The setting MAX_DURATION.
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
    schemas["Error"] = ERROR_SCHEMA
    paths = {}
    for path, item in made["paths"].items():
        post = item.get("post")
        if post is None:
            continue
        post["responses"] = {"200": _success(path, post), **_errors()}
        post["requestBody"] = _request_body(post, max_duration_s)
        post["tags"] = ["Generate" if path.startswith("/generate") else "Embed"]
        paths[path] = {"post": {k: v for k, v in post.items() if v is not None}}
    made["paths"] = {**paths, **_beside()}
    made["tags"] = [{"name": name} for name in ("Generate", "Embed", "Server")]
    return made


def _success(path: str, post: dict[str, Any]) -> dict[str, Any]:
    if not path.startswith("/generate"):
        return {**post["responses"]["200"], "description": "The embedding and its tokens."}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "description": "The audio file: 48 kHz, stereo.",
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in _AUDIO_HEADERS.items()
        },
        "content": {format.media_type: binary for format in AudioFormat},
    }


def _request_body(post: dict[str, Any], max_duration_s: float) -> dict[str, Any]:
    ((media_type, content),) = post["requestBody"]["content"].items()
    schema = content["schema"]
    schema["additionalProperties"] = False
    for field in schema["properties"].values():
        if field.get("default", "") is None:
            del field["default"]  # absent, which is not the same as null
    if duration := schema["properties"].get("duration"):
        duration["maximum"] = max_duration_s
    media_types = ["multipart/form-data", "application/x-www-form-urlencoded", "application/json"]
    takes_file = media_type == "multipart/form-data"
    needs_file = takes_file and "audio_file" in schema.get("required", [])
    offered = media_types[:1] if needs_file else media_types
    return {"required": True, "content": {name: {"schema": schema} for name in offered}}


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
