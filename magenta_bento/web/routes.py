"""The routes of the server, as admission, limits and metrics know them.

Invariant: whatever a client asks for, the name of its route is one of a few.
"""

from __future__ import annotations

import re

OTHER = "other"
LYRIA = "/ws/lyria"
# Each costs the device, a decoder or an embedding; they are what limits count.
COSTLY = (
    "/generate/text",
    "/generate/audio",
    "/generate/blend",
    "/stream/text",
    "/stream/audio",
    "/stream/blend",
    "/prompts/audio",
    "/embed/text",
    "/embed/audio",
    "/ws/jam",
    LYRIA,
)
# For browsers, orchestrators and those who want to know how to ask; none tells of a client.
OPEN = (
    "/",
    "/health",
    "/healthz",
    "/livez",
    "/readyz",
    "/docs",
    "/redoc",
    "/docs.json",
    "/docs-assets",
    "/schema.json",
    "/ws/jam/schema.json",
)
BY_QUERY = ("/stream/text", "/stream/blend")  # GET too, for players that only take an address
METRICS = "/metrics"
REQUESTS = "/requests/{request_id}"
_KNOWN = {*COSTLY, *OPEN, METRICS}
_PATTERNS = {
    re.compile(r"/docs-assets/.*"): "/docs-assets",
    re.compile(r"/requests/[^/]+"): REQUESTS,
    re.compile(r"/{1,2}ws/[^/]*BidiGenerateMusic"): LYRIA,
}


def route_of(path: str) -> str:
    """The name of the route that serves a path; OTHER if none does."""
    if path in _KNOWN:
        return path
    return next((name for form, name in _PATTERNS.items() if form.fullmatch(path)), OTHER)
