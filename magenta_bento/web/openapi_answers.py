"""The answers of a route as the OpenAPI document tells them: bodies, headers, errors.

Invariant: every status that a route answers with is here, with each type of error that it may
have and each header that it always or sometimes carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from magenta_bento import errors
from magenta_bento.audio.formats import CHANNELS, SAMPLE_RATE_HZ, AudioFormat, StreamFormat
from magenta_bento.config import Settings
from magenta_bento.controls import MAX_SEED
from magenta_bento.engine.stream import Phase
from magenta_bento.errors import ServiceError
from magenta_bento.runtime import ServerPhase
from magenta_bento.style import CODEBOOK_SIZE, EMBEDDING_SIZE, STYLE_TOKENS
from magenta_bento.web.forms import MAX_PROBLEMS
from magenta_bento.web.progress import PREPARING
from magenta_bento.web.routes import COSTLY, METRICS, OPEN, REQUESTS

Schema = dict[str, Any]
Error = type[ServiceError]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}


def _object(properties: Schema, *, optional: Iterable[str] = ()) -> Schema:
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _array(items: Schema, length: int) -> Schema:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


_EMBEDDING = {
    "embedding": _array({"type": "number"}, EMBEDDING_SIZE),
    "shape": _array({"type": "integer", "const": EMBEDDING_SIZE}, 1),
    "tokens": _array({**_COUNT, "maximum": CODEBOOK_SIZE - 1}, STYLE_TOKENS),
}
SCHEMAS: Mapping[str, Schema] = {
    "TextEmbedding": _object({"prompt": _TEXT, **_EMBEDDING}),
    "AudioEmbedding": _object({"filename": _TEXT, **_EMBEDDING}),
    "Shelved": _object({"audio_id": {**_TEXT, "minLength": 1}, "filename": _TEXT}),
    "Error": _object(
        {
            "error": {**_TEXT, "minLength": 1, "description": "One sentence for a person."},
            "type": {**_TEXT, "description": "What kind of error; stable."},
            "detail": {
                "type": "array",
                "maxItems": MAX_PROBLEMS,
                "items": _object(
                    {"field": _TEXT, "message": _TEXT, "value": _TEXT}, optional=["value"]
                ),
            },
        }
    ),
    "Health": _object(
        {
            "status": {**_TEXT, "enum": [phase.value for phase in ServerPhase]},
            "models_loaded": {"type": "boolean"},
            "model": _TEXT,
            "device": _or_null(_TEXT),
            "version": _TEXT,
            "note": {**_TEXT, "description": "Of the demo model."},
            "dtype": _TEXT,
            "limits": _object({"store": {**_TEXT, "enum": ["up", "down"]}}),
            "streams": _object({"active": _COUNT, "capacity": _COUNT, "waiting": _COUNT}),
        },
        optional=["note", "dtype", "limits", "streams"],
    ),
    "Progress": _object(
        {
            "id": _TEXT,
            "state": {**_TEXT, "enum": [PREPARING, *(phase.value for phase in Phase)]},
            "queue_position": _or_null(_COUNT),
            "audio_seconds": {
                **_or_null(_SECONDS),
                "description": "Asked for; null has no end.",
            },
            "made_seconds": _SECONDS,
            "estimated_wait_s": _or_null(_SECONDS),
        }
    ),
    "Messages": {
        "type": "object",
        "description": "A JSON Schema for each direction.",
        "required": ["client", "server"],
        "properties": {"client": {"type": "object"}, "server": {"type": "object"}},
        "additionalProperties": False,
    },
}

_HEADERS: Mapping[str, tuple[str, Schema]] = {
    "X-Request-ID": (
        "The request's id: its own, if it came with a fit one.",
        {**_TEXT, "pattern": "^[A-Za-z0-9._~:+/=-]{1,128}$"},
    ),
    "X-Queue-Position": ("How many were to be served before it.", _COUNT),
    "X-Seed": (
        "The seed that makes this piece again.",
        {**_COUNT, "maximum": MAX_SEED},
    ),
    "X-Model": ("The model that made it.", _TEXT),
    "Content-Disposition": ("A file name made from the prompt.", _TEXT),
    "X-Audio-Duration": ("Its length, seconds.", _SECONDS),
    "X-Generation-Time": ("From admission to the finished file, seconds.", _SECONDS),
    "X-Realtime-Factor": ("Seconds of audio per second of generation time.", _SECONDS),
    "X-Sample-Rate": ("Of pcm, Hz.", {"type": "integer", "const": SAMPLE_RATE_HZ}),
    "X-Channels": ("Of pcm.", {"type": "integer", "const": CHANNELS}),
    "X-Sample-Format": ("Of pcm.", {**_TEXT, "const": "s16le"}),
    "RateLimit": ("What is left of each limit, and for how many seconds.", _TEXT),
    "RateLimit-Policy": ("The limits: how many in how many seconds.", _TEXT),
    "Retry-After": ("Seconds after which to try again.", _COUNT),
    "WWW-Authenticate": ("How to send a key.", _TEXT),
}
_OF_EVERY_ANSWER = ("X-Request-ID",)
_OF_LIMITS = ("RateLimit", "RateLimit-Policy")
_OF_MUSIC = ("X-Queue-Position", "X-Seed", "X-Model")
_OF_A_FILE = (
    *("Content-Disposition", "X-Audio-Duration", "X-Generation-Time", "X-Realtime-Factor"),
)
_OF_PCM = ("X-Sample-Rate", "X-Channels", "X-Sample-Format")
_AT_TIMES = (*_OF_PCM, *_OF_LIMITS)
_PROGRESS = {
    "operationId": "progress",
    "parameters": {"request_id": "$response.header.X-Request-ID"},
    "description": "How far it is.",
}
_OF_ERRORS = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", *_OF_LIMITS),
    503: ("Retry-After", *_OF_LIMITS),
    **dict.fromkeys((400, 408, 413, 415, 500), _OF_LIMITS),
}

_TOLD: Mapping[Error, str] = {
    errors.InvalidInput: "A field is wrong; detail names each.",
    errors.UndecodableAudio: "A file is not audio that we read.",
    errors.Unauthorized: "No key, or one that is not known.",
    errors.OriginNotAllowed: "A page of an origin that is not among CORS_ORIGINS.",
    errors.NoSuchRequest: "There is none of this id, or it was another client's.",
    errors.SlowBody: "The body did not arrive in time.",
    errors.PayloadTooLarge: "The body is too large.",
    errors.UnsupportedMedia: "The body is neither a form nor JSON.",
    errors.RateLimited: "Too many requests.",
    errors.TooManyAtOnce: "Too many requests at once.",
    errors.AudioBudgetSpent: "Too many seconds of music.",
    errors.ServiceError: "An unexpected error.",
    errors.GenerationFailed: "The model failed.",
    errors.NotReady: "The model is loading, or the server shuts down.",
    errors.LimitsUnknown: "The store of the limits is down.",
    errors.Overloaded: "The queue is full.",
}


def _header(name: str) -> Schema:
    description, schema = _HEADERS[name]
    return {"description": description, "required": name not in _AT_TIMES, "schema": schema}


HEADERS: Mapping[str, Schema] = {name: _header(name) for name in _HEADERS}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_OF_EVERY_ANSWER, *names)}


def body(
    schema: Schema | str, description: str, *, limited: bool = False, of: str = "application/json"
) -> Schema:
    """An answer that is neither music nor an error.

    Args:
      schema: Of its body, or the name of one in :data:`SCHEMAS`.
      description: What it is.
      limited: Whether requests for it are counted.
      of: The media type of its body.
    """
    if isinstance(schema, str):
        schema = {"$ref": f"#/components/schemas/{schema}"}
    return {
        "description": description,
        "headers": _headers(*(_OF_LIMITS if limited else ())),
        "content": {of: {"schema": schema}},
    }


def music(route: str) -> Schema:
    """The success of a route of music."""
    is_stream = route.startswith("/stream")
    binary = {"schema": {"type": "string", "format": "binary"}}
    own = _OF_PCM if is_stream else _OF_A_FILE
    formats = StreamFormat if is_stream else AudioFormat
    return {
        "description": "Audio, 48 kHz, stereo: " + ("as it is made." if is_stream else "a file."),
        "headers": _headers(*_OF_MUSIC, *own, *_OF_LIMITS),
        "content": {format.media_type: binary for format in formats},
        "links": {"progress": _PROGRESS},
    }


def failures(
    route: str, settings: Settings, *, has_body: bool, has_files: bool
) -> dict[str, Schema]:
    """Every error of a route, by status.

    Args:
      route: Its path.
      settings: Whether keys are asked for.
      has_body: Whether a body is read.
      has_files: Whether that may hold files.
    """
    by_status: dict[int, list[Error]] = {}
    for error in _errors_of(route, settings, has_body=has_body, has_files=has_files):
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _failure(those) for status, those in sorted(by_status.items())}


def _errors_of(
    route: str, settings: Settings, *, has_body: bool, has_files: bool
) -> Iterable[Error]:
    if settings.enable_auth and not is_open(route, settings):
        yield errors.Unauthorized
    if route == REQUESTS:
        yield errors.NoSuchRequest
    if has_body:
        yield from (errors.OriginNotAllowed, errors.SlowBody)
        yield from (errors.PayloadTooLarge, errors.UnsupportedMedia)
    if has_files:
        yield errors.UndecodableAudio
    if route in (*COSTLY, REQUESTS):
        yield from (errors.ServiceError, errors.NotReady)
    if route in COSTLY:
        yield from (errors.InvalidInput, errors.RateLimited, errors.TooManyAtOnce)
        yield errors.LimitsUnknown
    if route.startswith(("/generate", "/stream")):
        yield from (errors.AudioBudgetSpent, errors.GenerationFailed, errors.Overloaded)


def is_open(route: str, settings: Settings) -> bool:
    """Whether it never asks for a key."""
    return route in OPEN or (route == METRICS and settings.metrics_without_key)


def _failure(those: list[Error]) -> Schema:
    status = those[0].status
    types = {"properties": {"type": {"enum": sorted(error.type for error in those)}}}
    return {
        "description": " ".join(dict.fromkeys(_TOLD[error] for error in those)),
        "headers": _headers(*_OF_ERRORS.get(status, ())),
        "content": {
            "application/json": {
                "schema": {"allOf": [{"$ref": "#/components/schemas/Error"}, types]}
            }
        },
    }
