"""No request leaves a timer behind, as BentoML's timeout would."""

from __future__ import annotations

import importlib

from bentoml._internal.server.http.traffic import MaxConcurrencyMiddleware
from starlette.types import Receive, Scope, Send

from magenta_bento.web.untimed import Untimed


def test_bentomls_app_has_no_timeout() -> None:
    service = importlib.import_module("service")
    app = service.MagentaBento.to_asgi()
    classes = [middleware.cls for middleware in app.user_middleware]
    assert Untimed in classes
    assert not any("Timeout" in kind.__name__ for kind in classes)
    assert MaxConcurrencyMiddleware not in classes


async def test_all_is_passed_on() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    async def nothing(*_: object) -> None: ...

    scope = {"type": "http"}
    await Untimed(app, timeout=1.0)(scope, nothing, nothing)  # type: ignore[arg-type]
    assert seen == [scope, nothing, nothing]
