"""Which pages of other origins may call the API, and what they may read of its answers.

Invariant: without a setting none may; no answer allows credentials, which this API has none of
that a browser would send by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PREFLIGHT_S = 600

REQUEST_HEADERS = ["X-API-Key", "Authorization", "Content-Type", "X-Request-ID"]
ANSWER_HEADERS = [
    "Content-Disposition",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Audio-Duration",
    "X-Channels",
    "X-Generation-Time",
    "X-Model",
    "X-Queue-Position",
    "X-Realtime-Factor",
    "X-Request-ID",
    "X-Sample-Format",
    "X-Sample-Rate",
    "X-Seed",
]


def options(origins: Sequence[str]) -> dict[str, Any]:
    """Of Starlette's CORSMiddleware."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": REQUEST_HEADERS,
        "expose_headers": ANSWER_HEADERS,
        "max_age": PREFLIGHT_S,
    }
