"""BentoML's timeout is off, so that no request leaves a timer behind."""

from __future__ import annotations

import importlib

from bentoml._internal.server.http.traffic import MaxConcurrencyMiddleware
from starlette.types import Receive, Scope, Send

from magenta_bento.web.endpoint import NoTimeoutMiddleware


def test_bentomls_app_has_no_timeout() -> None:
    service = importlib.import_module("service")
    app = service.MagentaBento.to_asgi()
    classes = [middleware.cls for middleware in app.user_middleware]
    assert NoTimeoutMiddleware in classes
    bentomls = [kind.__name__ for kind in classes if "bentoml" in kind.__module__.split(".")[0]]
    assert bentomls  # so that the next line looks at something
    assert not any("Timeout" in name for name in bentomls)
    assert MaxConcurrencyMiddleware not in classes


async def test_all_is_passed_on() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    async def nothing(*_: object) -> None: ...

    scope = {"type": "http"}
    await NoTimeoutMiddleware(app, timeout=1.0)(scope, nothing, nothing)  # type: ignore[arg-type]
    assert seen == [scope, nothing, nothing]
