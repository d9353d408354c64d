"""Takes BentoML's timeout out of the way of a request.

Ours are bounded one by one: bodies, queues, decoders, slow readers. BentoML's would cut long
generations off, can't be switched off, and BentoML 1.4.39 never cancels its timer: each request,
refused ones too, would be kept in memory until the timeout has passed.

Invariant: a request that is over leaves nothing behind.
"""

from __future__ import annotations

from typing import Any

from bentoml._internal.server.http import traffic
from starlette.types import ASGIApp, Receive, Scope, Send


class Untimed:
    """ASGI middleware in the place of BentoML's ``TimeoutMiddleware``: passes all on."""

    def __init__(self, app: ASGIApp, **_: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def install() -> None:
    """For the service that is made next; BentoML looks the class up when it builds its app."""
    traffic.TimeoutMiddleware = Untimed  # type: ignore[misc, assignment]
