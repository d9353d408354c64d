"""The OpenAPI document, made from the table of routes.

How a client may spell the fields of a request is ``web.openapi_fields``'s matter, what comes back
``web.openapi_responses``'s. Added here are the keys and the parameters that are no fields.

Invariant: a request that the document allows is served, one that it forbids is refused, and what
comes back is described; ``tests/test_schemathesis.py`` asks thousands.
"""

from __future__ import annotations

from typing import Any

from magenta_bento import __version__
from magenta_bento.access.clients import KEY_HEADER, KEY_PARAMETER
from magenta_bento.config import Settings
from magenta_bento.web import openapi_fields as fields
from magenta_bento.web import openapi_responses as responses
from magenta_bento.web import routes
from magenta_bento.web.base_request import ApiRequest
from magenta_bento.web.headers import REQUEST_ID
from magenta_bento.web.routes import ROUTES, Route, Tag

_DESCRIPTION = """Music from Google's Magenta RealTime 2: from text, from audio, or from a blend of
both.

Every error is JSON of one shape. What is not described here has it too: 404 for another path,
405 with `Allow` for another method of a path. Live music is at the WebSockets `/ws/jam` and
`/ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateMusic`, which OpenAPI
has no words for."""
_KEYS = {
    "header": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
    "bearer": {"type": "http", "scheme": "bearer"},
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": KEY_PARAMETER,
        "description": "For where no header can be set, as in a player's address.",
    },
}
_OWN_ID = {
    "name": REQUEST_ID.name,
    "in": "header",
    "description": "An id of your own, by which to ask how far the request is: up to 128 letters,"
    " digits and `-._~:+/=`. Another one is replaced.",
    "schema": {"type": "string"},
}
_ID_IN_PATH = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


def document(settings: Settings) -> dict[str, Any]:
    """The document that /docs.json serves.

    Args:
      settings: For what depends on them: bounds, keys, metrics.
    """
    described = [route for route in ROUTES if route.operation]
    if not settings.enable_metrics:
        described.remove(routes.METRICS)
    without_key: list[dict[str, Any]] = [] if settings.enable_auth else [{}]
    return {
        "openapi": "3.1.0",  # pydantic's schemas are 3.1's
        "info": {"title": "Magenta Bento", "version": __version__, "description": _DESCRIPTION},
        "paths": {
            route.path: _api(route, route.request, settings)
            if route.request
            else _page(route, settings)
            for route in described
        },
        "components": {**responses.components(), "securitySchemes": _KEYS},
        "security": [*({name: []} for name in _KEYS), *without_key],
        "tags": [{"name": tag.value} for tag in Tag],
    }


def _api(route: Route, request: type[ApiRequest], settings: Settings) -> dict[str, Any]:
    """The methods of a route that takes a request."""
    schema = fields.described(request, settings)
    common = {"tags": [route.tag.value], "summary": route.summary}
    methods = {
        "post": {
            **common,
            "operationId": route.operation,
            "parameters": [_OWN_ID],
            "x-bentoml-name": route.operation,
            "requestBody": fields.request_body(schema),
            "responses": responses.route_responses(
                route, settings, method="POST", has_files=bool(fields.files_of(schema))
            ),
        }
    }
    if route.takes_query:
        methods["get"] = {
            **common,
            "operationId": f"{route.operation}_by_query",
            "parameters": [*fields.query(schema), _OWN_ID],
            "responses": responses.route_responses(route, settings, method="GET", has_files=False),
        }
    return methods


def _page(route: Route, settings: Settings) -> dict[str, Any]:
    """The one method of a route without a request."""
    get: dict[str, Any] = {
        "tags": [route.tag.value],
        "operationId": route.operation,
        "summary": route.summary,
        "responses": responses.route_responses(route, settings, method="GET", has_files=False),
    }
    if route is routes.REQUEST:
        get["parameters"] = [_ID_IN_PATH]
    if route.is_open(settings):
        get["security"] = []
    return {"get": get}
