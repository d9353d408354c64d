"""What the server shows besides its API: health, and pages that document it.

Swagger UI and ReDoc come from an installed package, so that both work without a network.

Invariant: nothing here touches the model, so that it answers while the model works or loads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from magenta_bento.runtime import Runtime, ServerPhase

ASSETS_PACKAGE = "drf_spectacular_sidecar"
ASSETS_URL = "/docs-assets"

_SWAGGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Magenta Bento: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{assets}/swagger-ui-dist/swagger-ui.css"></head>
<body><div id="swagger"></div>
<script src="{assets}/swagger-ui-dist/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "docs.json", dom_id: "#swagger", deepLinking: true}})</script>
</body></html>"""

_REDOC = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Magenta Bento: API reference</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"></head>
<body><redoc spec-url="docs.json" disable-google-font="true" hide-download-button></redoc>
<script src="{assets}/redoc/bundles/redoc.standalone.js"></script>
</body></html>"""


def make_app(runtime: Callable[[], Runtime], openapi: Callable[[], dict[str, Any]]) -> Starlette:
    """The pages as an application to be mounted beside the API.

    Args:
      runtime: Gives the server's runtime, which is made after this.
      openapi: Gives the OpenAPI document.
    """

    async def health(_: Request) -> Response:
        body = runtime().health()
        healthy = body["status"] == ServerPhase.READY
        return JSONResponse(body, status_code=200 if healthy else 503)

    async def index(_: Request) -> Response:
        return RedirectResponse("docs")

    async def swagger(_: Request) -> Response:
        return HTMLResponse(_SWAGGER.format(assets=ASSETS_URL.lstrip("/")))

    async def redoc(_: Request) -> Response:
        return HTMLResponse(_REDOC.format(assets=ASSETS_URL.lstrip("/")))

    async def document(_: Request) -> Response:
        return JSONResponse(openapi())

    return Starlette(
        routes=[
            Route("/", index),
            Route("/health", health),
            Route("/docs", swagger),
            Route("/redoc", redoc),
            Route("/docs.json", document),
            Mount(ASSETS_URL, StaticFiles(directory=_assets_folder())),
        ]
    )


def _assets_folder() -> Path:
    """The static files of the installed package, which itself needs not be imported.

    Raises:
      ModuleNotFoundError: The package is not installed.
    """
    found = importlib.util.find_spec(ASSETS_PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"the documentation pages need the package {ASSETS_PACKAGE}")
    return Path(found.origin).parent / "static" / ASSETS_PACKAGE
