"""The response headers of the server, each with its name, its meaning and when it is sent.

The code that sets a header, the OpenAPI document and the list of headers that pages of other
origins may read all use this table.

Invariant: no header's name is written out twice; ``tests/test_headers.py`` looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from magenta_bento import errors
from magenta_bento.access import clients, rate_limits
from magenta_bento.audio.formats import CHANNELS, SAMPLE_RATE_HZ
from magenta_bento.controls import MAX_SEED

REQUEST_ID_CHARACTERS = "[A-Za-z0-9._~:+/=-]{1,128}"
SAMPLE_FORMAT_NAME = "s16le"  # of pcm
PREFLIGHT_S = 600

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0}


class When(Enum):
    """Which answers carry a header."""

    EVERY_ANSWER = auto()
    MUSIC = auto()
    FILE = auto()
    PCM = auto()
    COUNTED = auto()
    UNAUTHORIZED = auto()
    TRY_AGAIN = auto()


# Headers whose presence depends on the request or on a setting, not on the route and status.
_OPTIONAL = {When.PCM, When.COUNTED}


@dataclass(frozen=True)
class Header:
    """One response header.

    Attributes:
      name: As it is sent.
      meaning: For the OpenAPI document.
      schema: JSON Schema of its value.
      when: Which answers carry it.
      exposed: Whether pages of allowed origins may read it.
    """

    name: str
    meaning: str
    schema: dict[str, Any]
    when: When
    exposed: bool = True

    @property
    def described(self) -> dict[str, Any]:
        """The header object of the OpenAPI document."""
        required = self.when not in _OPTIONAL
        return {"description": self.meaning, "required": required, "schema": self.schema}


REQUEST_ID = Header(
    "X-Request-ID",
    "The request's id: its own, if it came with a valid one.",
    {**_TEXT, "pattern": f"^{REQUEST_ID_CHARACTERS}$"},
    When.EVERY_ANSWER,
)
QUEUE_POSITION = Header(
    "X-Queue-Position", "How many were to be served before it.", _COUNT, When.MUSIC
)
SEED = Header(
    "X-Seed",
    "The seed that makes this piece again.",
    {**_COUNT, "maximum": MAX_SEED},
    When.MUSIC,
)
MODEL = Header("X-Model", "The model that made it.", _TEXT, When.MUSIC)
DISPOSITION = Header("Content-Disposition", "A file name made from the prompt.", _TEXT, When.FILE)
DURATION = Header("X-Audio-Duration", "Its length, seconds.", _SECONDS, When.FILE)
GENERATION_TIME = Header(
    "X-Generation-Time", "From admission to the finished file, seconds.", _SECONDS, When.FILE
)
REALTIME_FACTOR = Header(
    "X-Realtime-Factor", "Seconds of audio per second of generation time.", _SECONDS, When.FILE
)
SAMPLE_RATE = Header(
    "X-Sample-Rate", "Of pcm, Hz.", {"type": "integer", "const": SAMPLE_RATE_HZ}, When.PCM
)
CHANNEL_COUNT = Header("X-Channels", "Of pcm.", {"type": "integer", "const": CHANNELS}, When.PCM)
SAMPLE_FORMAT = Header(
    "X-Sample-Format", "Of pcm.", {**_TEXT, "const": SAMPLE_FORMAT_NAME}, When.PCM
)
RATE_LIMIT = Header(
    rate_limits.RATE_LIMIT_HEADER,
    "What is left of each limit, and for how many seconds.",
    _TEXT,
    When.COUNTED,
)
RATE_LIMIT_POLICY = Header(
    rate_limits.POLICY_HEADER, "The limits: how many in how many seconds.", _TEXT, When.COUNTED
)
RETRY_AFTER = Header(
    errors.RETRY_AFTER_HEADER, "Seconds after which to try again.", _COUNT, When.TRY_AGAIN
)
AUTHENTICATE = Header(
    errors.AUTHENTICATE_HEADER, "How to send a key.", _TEXT, When.UNAUTHORIZED, exposed=False
)
HEADERS = (
    *(REQUEST_ID, QUEUE_POSITION, SEED, MODEL),
    *(DISPOSITION, DURATION, GENERATION_TIME, REALTIME_FACTOR),
    *(SAMPLE_RATE, CHANNEL_COUNT, SAMPLE_FORMAT),
    *(RATE_LIMIT, RATE_LIMIT_POLICY, RETRY_AFTER, AUTHENTICATE),
)

# What browsers and caches act upon, on any answer. The OpenAPI document leaves these out.
CONTENT_SECURITY_POLICY = "Content-Security-Policy"
CACHE_CONTROL = "Cache-Control"
ALLOW = "Allow"
PROTECTION = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

# What pages of allowed origins may send.
REQUEST_HEADERS = (clients.KEY_HEADER, clients.BEARER_HEADER, "Content-Type", REQUEST_ID.name)


def sent_when(*occasions: When) -> Iterator[Header]:
    """The headers of an answer.

    Args:
      *occasions: What holds for it beside ``EVERY_ANSWER``.
    """
    return (each for each in HEADERS if each.when in (When.EVERY_ANSWER, *occasions))


def error_headers(status: int) -> Iterator[Header]:
    """The headers of an error with this status."""
    if status == HTTPStatus.UNAUTHORIZED:
        return sent_when(When.UNAUTHORIZED)
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return sent_when(When.TRY_AGAIN, When.COUNTED)
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return sent_when()  # before requests are counted, or of a route where they are not
    return sent_when(When.COUNTED)


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """The options of Starlette's CORSMiddleware.

    No answer allows credentials, which this API has none of that a browser would send by itself.

    Args:
      origins: Whose pages may call the API and read its answers.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": list(REQUEST_HEADERS),
        "expose_headers": [each.name for each in HEADERS if each.exposed],
        "max_age": PREFLIGHT_S,
    }
