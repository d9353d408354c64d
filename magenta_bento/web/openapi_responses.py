"""The responses of a route as the OpenAPI document describes them: bodies, headers, errors.

Invariant: every status that a route answers with is here, with each type of error that it may
have and each header that it always or sometimes carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from magenta_bento import errors
from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.config import Settings
from magenta_bento.errors import ServiceError
from magenta_bento.web import headers, response_models, routes
from magenta_bento.web.headers import Header, When
from magenta_bento.web.routes import ROUTES, Route

Schema = dict[str, Any]
ErrorType = type[ServiceError]

_PROGRESS_LINK = {
    "operationId": routes.REQUEST.operation,
    "parameters": {"request_id": f"$response.header.{headers.REQUEST_ID.name}"},
    "description": "How far it is.",
}
_DESCRIPTIONS: Mapping[ErrorType, str] = {
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


def components() -> dict[str, Any]:
    """The schemas and headers that the responses of all routes refer to."""
    models = dict.fromkeys(route.answer for route in ROUTES if route.answer is not None)
    return {
        "schemas": response_models.schemas([*models, response_models.Error]),
        "headers": {each.name: each.described for each in headers.HEADERS},
    }


def route_responses(route: Route, settings: Settings, *, method: str, has_files: bool) -> Schema:
    """Every response of a method of a route, by status.

    Args:
      route: The route.
      settings: Whether keys are asked for.
      method: In a body or a query.
      has_files: Whether the body may hold files.
    """
    by_status: dict[int, list[ErrorType]] = {}
    for error in _errors_of(route, settings, has_body=method == "POST", has_files=has_files):
        by_status.setdefault(error.status, []).append(error)
    failures = {str(status): _failure(types) for status, types in sorted(by_status.items())}
    if route is routes.HEALTH:
        failures["503"] = {**_success(route), "description": "Loading, draining or failed."}
    return {"200": _success(route), **failures}


def _success(route: Route) -> Schema:
    if route.makes_music:
        return _music(route)
    if route.answer is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
        return {
            "description": "The metrics.",
            "headers": _references(headers.sent_when()),
            "content": content,
        }
    reference = {"$ref": f"#/components/schemas/{route.answer.__name__}"}
    return {
        "description": str(route.answer.__doc__),
        "headers": _references(headers.sent_when(*([When.COUNTED] if route.counted else []))),
        "content": {"application/json": {"schema": reference}},
    }


def _music(route: Route) -> Schema:
    binary = {"schema": {"type": "string", "format": "binary"}}
    occasion = When.PCM if route.makes_stream else When.FILE
    formats = StreamFormat if route.makes_stream else AudioFormat
    kind = "as it is made." if route.makes_stream else "a file."
    return {
        "description": f"Audio, 48 kHz, stereo: {kind}",
        "headers": _references(headers.sent_when(When.MUSIC, occasion, When.COUNTED)),
        "content": {format.media_type: binary for format in formats},
        "links": {"progress": _PROGRESS_LINK},
    }


def _errors_of(
    route: Route, settings: Settings, *, has_body: bool, has_files: bool
) -> Iterable[ErrorType]:
    if settings.enable_auth and not route.is_open(settings):
        yield errors.Unauthorized
    if route is routes.REQUEST:
        yield errors.NoSuchRequest
    if has_body:
        yield from (errors.OriginNotAllowed, errors.SlowBody)
        yield from (errors.PayloadTooLarge, errors.UnsupportedMedia)
    if has_files:
        yield errors.UndecodableAudio
    if route.counted or route is routes.REQUEST:
        yield from (errors.ServiceError, errors.NotReady)
    if route.counted:
        yield from (errors.InvalidInput, errors.RateLimited, errors.TooManyAtOnce)
        yield errors.LimitsUnknown
    if route.makes_music:
        yield from (errors.AudioBudgetSpent, errors.GenerationFailed, errors.Overloaded)


def _failure(types: list[ErrorType]) -> Schema:
    narrowed = {"properties": {"type": {"enum": sorted(error.type for error in types)}}}
    reference = {"$ref": f"#/components/schemas/{response_models.Error.__name__}"}
    return {
        "description": " ".join(dict.fromkeys(_DESCRIPTIONS[error] for error in types)),
        "headers": _references(headers.error_headers(types[0].status)),
        "content": {"application/json": {"schema": {"allOf": [reference, narrowed]}}},
    }


def _references(listed: Iterable[Header]) -> Schema:
    return {each.name: {"$ref": f"#/components/headers/{each.name}"} for each in listed}
