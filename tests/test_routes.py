"""The table of routes is what the running application serves, and nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from magenta_bento.web.routes import LYRIA, PAGE, ROUTES, SOCKET, UNKNOWN, route_of


def served(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """(path, method) of each route of BentoML's application and of what is mounted in it."""
    for route in routes:
        if isinstance(route, Route):
            yield from ((route.path, method) for method in route.methods or ())
        elif isinstance(route, WebSocketRoute):
            yield from ((route.path, method) for method in SOCKET)
        elif isinstance(route, Mount) and route.routes:  # our Starlette application
            assert route.path == ""
            yield from served(route.routes)
        elif isinstance(route, Mount):  # a folder
            yield from ((route.path, method) for method in PAGE)
        else:
            raise AssertionError(f"a route of another kind: {route}")


@pytest.fixture(scope="module")
def application() -> Any:
    service = importlib.import_module("service")
    return service.MagentaBento.to_asgi(is_main=True)


def test_the_table_is_what_the_application_serves(application: Any) -> None:
    table = {
        (path, method)
        for route in ROUTES
        for path in (route.path, *route.other_paths)
        for method in route.methods
    }
    assert set(served(application.routes)) == table


def test_each_route_is_there_once() -> None:
    for values in (
        [route.path for route in ROUTES],
        [route.label for route in ROUTES],
        [route.operation for route in ROUTES if route.operation],
    ):
        assert len(values) == len(set(values))


def test_each_route_with_a_body_is_a_method_of_the_service() -> None:
    service = importlib.import_module("service")
    apis = {api.route: name for name, api in service.MagentaBento.apis.items()}
    assert apis == {route.path: route.operation for route in ROUTES if route.request is not None}
    summaries = {api.route: api.doc for api in service.MagentaBento.apis.values()}
    assert summaries == {route.path: route.summary for route in ROUTES if route.request is not None}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        *((route.path, route.label) for route in ROUTES if route is not LYRIA),
        ("/docs-assets/swagger-ui.css", "/docs-assets"),
        ("/static_content/swagger-ui.css", "/static_content"),
        ("/requests/some-id", "/requests/{request_id}"),
        ("/requests/", UNKNOWN.label),
        ("/requests/a/b", UNKNOWN.label),
        ("/ws/google.ai.v1.GenerativeService.BidiGenerateMusic", "/ws/lyria"),
        ("//ws/google.ai.v1.GenerativeService.BidiGenerateMusic", "/ws/lyria"),
        ("/ws/other", UNKNOWN.label),
        ("/generate/texts", UNKNOWN.label),
        ("/generate/text/", UNKNOWN.label),
        ("/generate/text\n", UNKNOWN.label),
        ("", UNKNOWN.label),
    ],
)
def test_the_route_of_a_path(path: str, label: str) -> None:
    assert route_of(path).label == label
