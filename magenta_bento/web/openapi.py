"""The OpenAPI document: BentoML's own, with what it can't know put in.

BentoML knows the routes of the API and the fields of each body. How a client may spell those
is ``web.openapi_fields``'s matter, what comes back ``web.openapi_answers``'s. Added here are the
keys, and the routes beside the API.

Invariant: a request that the document allows is served, one that it forbids is refused, and what
comes back is described; ``tests/test_schemathesis.py`` asks thousands.
"""

from __future__ import annotations

import json
from typing import Any

from magenta_bento import __version__
from magenta_bento.config import Settings
from magenta_bento.web import openapi_answers as answers
from magenta_bento.web import openapi_fields as fields
from magenta_bento.web.routes import BY_QUERY, METRICS, REQUESTS

_TAGS = {"generate": "Generate", "stream": "Stream", "embed": "Embed", "prompts": "Embed"}
_SERVER = "Server"
_DESCRIPTION = """Music from Google's Magenta RealTime 2: from text, from audio, or from a blend of
both.

Every error is JSON of one shape. What is not described here has it too: 404 for another path,
405 with `Allow` for another method of a path. Live music is at the WebSockets `/ws/jam` and
`/ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateMusic`, which OpenAPI
has no words for."""
_KEYS = {
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "key",
        "description": "For where no header can be set, as in a player's address.",
    },
}
_OWN_ID = {
    "name": "X-Request-ID",
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
_EMBEDDINGS = {
    "/embed/text": ("TextEmbedding", "The embedding and its tokens."),
    "/embed/audio": ("AudioEmbedding", "The embedding and its tokens."),
    "/prompts/audio": ("Shelved", "The id, and the file it stands for."),
}


def document(bentoml_document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The document that /docs.json serves.

    Args:
      bentoml_document: What BentoML makes of the service.
      settings: For what depends on them: bounds, keys, metrics.
    """
    # Through JSON: a copy, whose keys are all text.
    theirs: dict[str, Any] = json.loads(json.dumps(bentoml_document))
    paths: dict[str, Any] = {}
    for path, item in theirs["paths"].items():
        if "post" in item:
            paths[path] = _api(path, item["post"], theirs["components"]["schemas"], settings)
    anyone: list[dict[str, Any]] = [] if settings.enable_auth else [{}]
    return {
        "openapi": "3.1.0",  # pydantic's schemas are 3.1's
        "info": {"title": "Magenta Bento", "version": __version__, "description": _DESCRIPTION},
        "paths": {**paths, **_beside(settings)},
        "components": {
            "schemas": dict(answers.SCHEMAS),
            "headers": dict(answers.HEADERS),
            "securitySchemes": _KEYS,
        },
        "security": [*({name: []} for name in _KEYS), *anyone],
        "tags": [{"name": name} for name in (*dict.fromkeys(_TAGS.values()), _SERVER)],
    }


def _api(
    path: str, post: dict[str, Any], components: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """The methods of a path that BentoML serves."""
    ((_, content),) = post["requestBody"]["content"].items()
    schema = fields.resolved(content["schema"], components)
    if duration := schema["properties"].get("duration"):
        is_stream = path.startswith("/stream")
        longest = settings.max_stream_duration if is_stream else settings.max_duration
        duration["maximum"] = longest
        duration["default"] = min(duration["default"], longest)
    has_files = bool(fields.files_of(schema))
    success = (
        answers.body(*_EMBEDDINGS[path], limited=True)
        if path in _EMBEDDINGS
        else answers.music(path)
    )
    told = {"tags": [_TAGS[path.split("/")[1]]], "summary": post["description"]}
    methods = {
        "post": {
            **told,
            "operationId": post["x-bentoml-name"],
            "parameters": [_OWN_ID],
            "x-bentoml-name": post["x-bentoml-name"],
            "requestBody": fields.request_body(schema),
            "responses": {
                "200": success,
                **answers.failures(path, settings, has_body=True, has_files=has_files),
            },
        }
    }
    if path in BY_QUERY:
        methods["get"] = {
            **told,
            "operationId": f"{post['x-bentoml-name']}_by_query",
            "parameters": [*fields.query(schema), _OWN_ID],
            "responses": {
                "200": success,
                **answers.failures(path, settings, has_body=False, has_files=False),
            },
        }
    return methods


def _beside(settings: Settings) -> dict[str, Any]:
    """The routes that are not BentoML's."""
    text = answers.body({"type": "string"}, "The metrics.", of="text/plain")
    found = {
        "/health": _get(
            "health", "Whether the model is loaded, and which", answers.body("Health", "Healthy.")
        ),
        METRICS: _get("metrics", "Prometheus metrics", text),
        REQUESTS: _get(
            "progress",
            "How far a request of yours is, up to ten minutes after its end",
            answers.body("Progress", "How far it is."),
        ),
        "/ws/jam/schema.json": _get(
            "jam_schema",
            "JSON Schema of the messages of /ws/jam",
            answers.body("Messages", "The schemas."),
        ),
    }
    if not settings.enable_metrics:
        del found[METRICS]
    for path, get in found.items():
        get["responses"] |= answers.failures(path, settings, has_body=False, has_files=False)
        if answers.is_open(path, settings):
            get["security"] = []
    found["/health"]["responses"]["503"] = answers.body("Health", "Loading, draining or failed.")
    found[REQUESTS]["parameters"] = [_ID_IN_PATH]
    return {path: {"get": get} for path, get in found.items()}


def _get(name: str, summary: str, success: dict[str, Any]) -> dict[str, Any]:
    told = {"tags": [_SERVER], "operationId": name, "summary": summary}
    return {**told, "responses": {"200": success}}
