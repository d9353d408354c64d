"""The routes of the server, each registered once.

Admission, limits, metrics, the OpenAPI document, GET with a query and the Allow header read this
table; ``tests/test_routes.py`` compares it with what the running application serves.

Invariant: whatever path a client asks for, the name of its route is one of a few.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from pydantic import BaseModel
from starlette.routing import compile_path

from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.config import Settings
from magenta_bento.runtime import Health
from magenta_bento.web import request_models, response_models
from magenta_bento.web.base_request import ApiRequest

PAGE = ("GET", "HEAD")  # Starlette answers HEAD wherever it answers GET
BODY = ("POST",)
# For players that only take an address. Not HEAD: music has no head without being made.
BODY_OR_QUERY = ("GET", "POST")
SOCKET = ("WEBSOCKET",)


class Tag(StrEnum):
    """The sections of the OpenAPI document."""

    GENERATE = "Generate"
    STREAM = "Stream"
    EMBED = "Embed"
    SERVER = "Server"


class KeyRequirement(Enum):
    """When a route asks for an API key, on a server that has keys."""

    ALWAYS = "always"
    NEVER = "never"
    UNLESS_METRICS_ARE_OPEN = "unless METRICS_WITHOUT_KEY is set"


@dataclass(frozen=True)
class Route:
    """One route.

    Attributes:
      path: As Starlette and OpenAPI write it.
      methods: HTTP methods that it serves, or ``SOCKET``.
      counted: Whether it costs the device, a decoder or an embedding: what limits count.
      api_key: When it asks for a key.
      operation: Its name in the OpenAPI document, and of the method of the BentoML service that
        serves it; "" for a route that the document leaves out.
      tag: Its section of the document.
      summary: What it does, in one sentence.
      request: The type of its body or query; None if it has none.
      answer: The model of its JSON; None if it answers with something else.
      audio: The formats of the music that it answers with; None for other routes.
      other_paths: Further paths of the same route.
      pattern: Which paths it serves, where that is narrower than its path.
      label: Its name in metrics and in the access log; its path by default.
    """

    path: str
    methods: tuple[str, ...] = PAGE
    counted: bool = False
    api_key: KeyRequirement = KeyRequirement.ALWAYS
    operation: str = ""
    tag: Tag = Tag.SERVER
    summary: str = ""
    request: type[ApiRequest] | None = None
    answer: type[BaseModel] | None = None
    audio: type[AudioFormat] | type[StreamFormat] | None = None
    other_paths: tuple[str, ...] = ()
    pattern: str = ""
    label: str = ""
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        compiled = re.compile(self.pattern) if self.pattern else compile_path(self.path)[0]
        object.__setattr__(self, "_compiled", compiled)
        object.__setattr__(self, "label", self.label or self.path)

    def serves(self, path: str) -> bool:
        """Whether a request for this path is this route's."""
        return self._compiled.fullmatch(path) is not None

    def is_open(self, settings: Settings) -> bool:
        """Whether it never asks for a key, on a server that has keys."""
        if self.api_key is KeyRequirement.UNLESS_METRICS_ARE_OPEN:
            return settings.metrics_without_key
        return self.api_key is KeyRequirement.NEVER

    @property
    def makes_stream(self) -> bool:
        """Whether it answers with music that is sent while it is made."""
        return self.audio is StreamFormat

    @property
    def makes_music(self) -> bool:
        """Whether it answers with music."""
        return self.audio is not None

    @property
    def takes_query(self) -> bool:
        """Whether its request may also be sent as a query, with GET."""
        return self.request is not None and "GET" in self.methods


def _open(path: str, pattern: str = "") -> Route:
    """A page or probe that anybody may see, and that shows nothing of a client."""
    return Route(path, api_key=KeyRequirement.NEVER, pattern=pattern)


def _api(path: str, summary: str, request: type[ApiRequest], tag: Tag, **fields: Any) -> Route:
    """A route of the API; its operation is its path in words."""
    operation = path.strip("/").replace("/", "_")
    fields = {"methods": BODY, "operation": operation, **fields}
    return Route(path, counted=True, tag=tag, summary=summary, request=request, **fields)


GENERATE_TEXT = _api(
    "/generate/text",
    "Music from a text prompt.",
    request_models.TextRequest,
    Tag.GENERATE,
    audio=AudioFormat,
)
GENERATE_AUDIO = _api(
    "/generate/audio",
    "Music in the style of an audio file, with a text prompt mixed in if there is one.",
    request_models.AudioRequest,
    Tag.GENERATE,
    audio=AudioFormat,
)
GENERATE_BLEND = _api(
    "/generate/blend",
    "Music from several text and audio prompts, each with its weight.",
    request_models.BlendRequest,
    Tag.GENERATE,
    audio=AudioFormat,
)
STREAM_TEXT = _api(
    "/stream/text",
    "Music from a text prompt, sent while it is made.",
    request_models.StreamTextRequest,
    Tag.STREAM,
    audio=StreamFormat,
    methods=BODY_OR_QUERY,
)
STREAM_AUDIO = _api(
    "/stream/audio",
    "Music in the style of an audio file, sent while it is made.",
    request_models.StreamAudioRequest,
    Tag.STREAM,
    audio=StreamFormat,
)
STREAM_BLEND = _api(
    "/stream/blend",
    "Music from several weighted prompts, sent while it is made.",
    request_models.StreamBlendRequest,
    Tag.STREAM,
    audio=StreamFormat,
    methods=BODY_OR_QUERY,
)
EMBED_TEXT = _api(
    "/embed/text",
    "The style embedding of a text prompt, and its tokens.",
    request_models.EmbedTextRequest,
    Tag.EMBED,
    answer=response_models.TextEmbedding,
)
EMBED_AUDIO = _api(
    "/embed/audio",
    "The style embedding of an audio file, and its tokens.",
    request_models.EmbedAudioRequest,
    Tag.EMBED,
    answer=response_models.AudioEmbedding,
)
STORE_AUDIO_PROMPT = _api(
    "/prompts/audio",
    "Keeps an audio prompt for a day, under an id that /ws/jam takes.",
    request_models.EmbedAudioRequest,
    Tag.EMBED,
    answer=response_models.StoredAudioPrompt,
    operation="shelve_audio",  # users of BentoML's client call it by this name
)
JAM = Route("/ws/jam", SOCKET, counted=True)
# google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateMusic; the JavaScript SDK,
# and the Python one for some base URLs, put two slashes in front.
LYRIA = Route(
    "/ws/{method}",
    SOCKET,
    counted=True,
    other_paths=("//ws/{method}",),
    pattern=r"/{1,2}ws/[^/]*BidiGenerateMusic",
    label="/ws/lyria",
)
HEALTH = Route(
    "/health",
    api_key=KeyRequirement.NEVER,
    operation="health",
    summary="Whether the model is loaded, and which",
    answer=Health,
)
METRICS = Route(
    "/metrics",
    api_key=KeyRequirement.UNLESS_METRICS_ARE_OPEN,
    operation="metrics",
    summary="Prometheus metrics",
)
REQUEST = Route(
    "/requests/{request_id}",
    operation="progress",
    summary="How far a request of yours is, up to ten minutes after its end",
    answer=response_models.RequestProgress,
)
JAM_SCHEMA = Route(
    "/ws/jam/schema.json",
    api_key=KeyRequirement.NEVER,
    operation="jam_schema",
    summary="JSON Schema of the messages of /ws/jam",
    answer=response_models.MessageSchemas,
)
INDEX = _open("/")
DOCS = _open("/docs")
REDOC = _open("/redoc")
DOCUMENT = _open("/docs.json")
ASSETS = _open("/docs-assets", pattern="/docs-assets(/.*)?")
# bentoml: what it serves by itself.
LIVEZ, READYZ, HEALTHZ = _open("/livez"), _open("/readyz"), _open("/healthz")
BENTOML_SCHEMA = _open("/schema.json")
BENTOML_ASSETS = Route("/static_content", pattern="/static_content(/.*)?")

ROUTES = (
    *(GENERATE_TEXT, GENERATE_AUDIO, GENERATE_BLEND),
    *(STREAM_TEXT, STREAM_AUDIO, STREAM_BLEND),
    *(STORE_AUDIO_PROMPT, EMBED_TEXT, EMBED_AUDIO),
    *(JAM, LYRIA),
    *(HEALTH, METRICS, REQUEST, JAM_SCHEMA),
    *(INDEX, DOCS, REDOC, DOCUMENT, ASSETS),
    *(LIVEZ, READYZ, HEALTHZ, BENTOML_SCHEMA, BENTOML_ASSETS),
)
# Any path that is in none of them; such a request is refused, but by whom it is asked counts.
UNKNOWN = Route("other", methods=(), pattern="(?!)")


def route_of(path: str) -> Route:
    """The route that serves a path; UNKNOWN if none does."""
    return next((route for route in ROUTES if route.serves(path)), UNKNOWN)
