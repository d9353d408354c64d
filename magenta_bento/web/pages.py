"""What the server shows besides its API: health, and pages that document it.

Both viewers work without a network: their scripts come from installed packages, Swagger UI's
from BentoML itself, ReDoc's from a plugin for MkDocs that is never imported.

Invariant: nothing here touches the model, so that it answers while the model works or loads.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from magenta_bento.errors import ServiceError
from magenta_bento.metrics import CONTENT_TYPE_LATEST
from magenta_bento.runtime import Runtime, ServerPhase
from magenta_bento.web import routes
from magenta_bento.web.context import RequestContext
from magenta_bento.web.headers import CONTENT_SECURITY_POLICY
from magenta_bento.web.request_status import Progress
from magenta_bento.web.responses import error_response, json_response

# Packages, and the folder in each whose files are served.
ASSETS = [
    ("bentoml", "_internal/server/static_content"),  # bentoml: its own copy of Swagger UI
    ("mkdocs_redoc_tag", "redoc/javascripts"),
]
_SWAGGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Magenta Bento: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{assets}/swagger-ui.css"></head>
<body><div id="swagger"></div>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "docs.json", dom_id: "#swagger", deepLinking: true,
validatorUrl: null}})</script>
</body></html>"""

_REDOC = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Magenta Bento: API reference</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"></head>
<body><redoc spec-url="docs.json" disable-google-font="true" hide-download-button></redoc>
<script src="{assets}/redoc.standalone.js"></script>
</body></html>"""


def make_app(
    runtime: Callable[[], Runtime],
    openapi: Callable[[], dict[str, Any]],
    progress: Progress,
    other_routes: Sequence[BaseRoute],
    *,
    with_metrics: bool,
) -> Starlette:
    """The pages as an application to be mounted beside the API.

    Args:
      runtime: Returns the server's runtime, which is made after the application.
      openapi: Returns the OpenAPI document.
      progress: Knows the requests that are served.
      other_routes: Further routes of the same application.
      with_metrics: Whether ``/metrics`` is among the pages.
    """

    async def health(_: Request) -> Response:
        answer = await runtime().health()
        return json_response(answer, 200 if answer.status is ServerPhase.READY else 503)

    async def metrics(_: Request) -> Response:
        return Response(
            await asyncio.to_thread(runtime().exposition), media_type=CONTENT_TYPE_LATEST
        )

    async def request_progress(request: Request) -> Response:
        client = RequestContext.from_scope(request.scope).client.id
        try:
            engine = runtime().loaded.engine
            return json_response(progress.report(client, request.path_params["request_id"], engine))
        except ServiceError as error:
            return error_response(error)

    async def index(_: Request) -> Response:
        return RedirectResponse("docs")

    async def swagger(_: Request) -> Response:
        return _page(_SWAGGER)

    async def redoc(_: Request) -> Response:
        return _page(_REDOC)

    async def document(_: Request) -> Response:
        return JSONResponse(openapi())

    return Starlette(
        routes=[
            Route(routes.INDEX.path, index),
            Route(routes.HEALTH.path, health),
            Route(routes.REQUEST.path, request_progress),
            *([Route(routes.METRICS.path, metrics)] if with_metrics else []),
            Route(routes.DOCS.path, swagger),
            Route(routes.REDOC.path, redoc),
            Route(routes.DOCUMENT.path, document),
            *other_routes,
            Mount(routes.ASSETS.path, StaticFiles(packages=list(ASSETS))),
        ]
    )


def _page(html: str) -> Response:
    html = html.format(assets=routes.ASSETS.path.lstrip("/"))
    return HTMLResponse(html, headers={CONTENT_SECURITY_POLICY: _policy(html)})


def _policy(html: str) -> str:
    """What a page may load: what this server has, and the scripts that the page itself holds."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return "; ".join(
        (
            "default-src 'self'",
            " ".join(("script-src 'self'", *(f"'sha256-{digest}'" for digest in hashes))),
            "style-src 'self' 'unsafe-inline'",  # both viewers style by elements they make
            "img-src 'self' data:",  # ReDoc would fetch its logo from a CDN
            "worker-src 'self' blob:",  # ReDoc's search
            "object-src 'none'",
            "base-uri 'none'",
        )
    )
