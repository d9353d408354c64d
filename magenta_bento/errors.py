"""Everything that can go wrong, once, with what a client is told about it.

    MagentaBentoError
    ├── ConfigError              a setting is wrong: the process does not start
    ├── WeightsError             a model's files are missing, damaged or of another shape
    ├── Unplannable              no fleet can do what ``magenta-bento plan`` is asked for
    └── ServiceError             reaches a client (HTTP status, WebSocket close code)
        ├── InvalidInput         400   the request says something we can't do
        ├── UndecodableAudio     400   an upload that is not audio we can read
        ├── Unauthorized         401   no key, or one that is not known
        ├── OriginNotAllowed     403   a web page from elsewhere
        ├── NoSuchRequest        404
        ├── SlowBody             408   a body that does not arrive
        ├── SlowReader           408   a client that reads more slowly than its music plays
        ├── IdleSession          408   a live connection that nobody uses
        ├── PayloadTooLarge      413
        ├── UnsupportedMedia     415   a body of a media type we don't take
        ├── RateLimited          429   too many requests of one client
        ├── TooManyAtOnce        429   likewise, at once
        ├── AudioBudgetSpent     429   too many seconds of music for one client
        ├── GenerationFailed     500   the model or an encoder failed under this request
        ├── NotReady             503   loading, draining or failed
        ├── LimitsUnknown        503   the store of the limits is down, and none may pass without
        └── Overloaded           503   the queue is full; Retry-After says when to come back

Invariant: a message is one sentence that names the field, the bound and the value, and
never holds a secret or a stack trace. ``web.responses`` renders these; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

RETRY_AFTER_HEADER = "Retry-After"
AUTHENTICATE_HEADER = "WWW-Authenticate"


class MagentaBentoError(Exception):
    """Root of the tree; never raised itself."""


class ConfigError(MagentaBentoError):
    """A setting has a wrong value. The message names the setting and the reason."""


class WeightsError(MagentaBentoError):
    """A model's files can't be used. The message says which and how to mend it."""


class Unplannable(MagentaBentoError):
    """No fleet can do what is asked. The message says why."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one field of a request.

    Attributes:
      field: The field's name as the client wrote it; "" for the request as a whole.
      message: What is wrong, with the bound.
      value: The offending value, shortened; None when there is none to show.
    """

    field: str
    message: str
    value: str | None = None

    def as_dict(self) -> dict[str, str]:
        shown = {"field": self.field, "message": self.message}
        return shown if self.value is None else {**shown, "value": self.value}


class ServiceError(MagentaBentoError):
    """An unexpected error of the server; its log has the reason.

    Every error that reaches a client is one of these or of a subclass.

    Args:
      message: One sentence for a person.
      problems: One entry for each field at fault.
      retry_after_s: Seconds after which trying again makes sense; None when it never does.
      headers: What else is told in headers.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    close_code: ClassVar[int] = 1011  # RFC 6455: internal error

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @property
    def headers(self) -> Mapping[str, str]:
        if self.retry_after_s is None:
            return self._headers
        return {**self._headers, RETRY_AFTER_HEADER: str(self.retry_after_s)}

    def as_dict(self) -> dict[str, Any]:
        """The one JSON shape of an error: ``{"error", "type", "detail"}``."""
        detail = [problem.as_dict() for problem in self.problems]
        return {"error": self.message, "type": self.type, "detail": detail}


class InvalidInput(ServiceError):
    """A field is missing, unknown or has a wrong value; ``detail`` names each one."""

    status = 400
    type = "invalid_input"
    close_code = 1008  # policy violation

    @classmethod
    def field(cls, name: str, message: str, value: object = None) -> InvalidInput:
        """An error about one field, shown in both the sentence and the detail."""
        shown = None if value is None else shorten(value)
        got = "" if shown is None else f", got {shown}"
        return cls(f"{name}: {message}{got}", problems=[Problem(name, message, shown)])


class UndecodableAudio(InvalidInput):
    """An upload is empty, is not audio that is read, or costs too much to decode."""

    type = "undecodable_audio"


class Unauthorized(ServiceError):
    """A key is needed, or the key that was sent is not known.

    RFC 6750 has the scheme; keys in other places are ours.
    """

    status = 401
    type = "unauthorized"
    close_code = 1008  # policy violation

    @property
    def headers(self) -> Mapping[str, str]:
        return {AUTHENTICATE_HEADER: 'Bearer realm="magenta-bento"'}


class OriginNotAllowed(ServiceError):
    """A web page whose origin is not in ``CORS_ORIGINS`` sent a form or opened a WebSocket."""

    status = 403
    type = "origin_not_allowed"
    close_code = 1008  # policy violation


class NoSuchRequest(ServiceError):
    """There is no such route, or no such request of yours."""

    status = 404
    type = "not_found"


class SlowBody(ServiceError):
    """The body took longer than ``BODY_TIMEOUT_S`` seconds plus one for each 8 kB."""

    status = 408
    type = "slow_body"


class SlowReader(ServiceError):
    """Only on a WebSocket: the client reads more slowly than its music plays."""

    status = 408
    type = "slow_reader"
    close_code = 1008  # policy violation


class IdleSession(ServiceError):
    """Only on a WebSocket: nothing plays, and no message has come for ten minutes."""

    status = 408
    type = "idle"
    close_code = 1001  # going away


class PayloadTooLarge(ServiceError):
    """The files exceed ``MAX_FILE_SIZE_MB`` together, or the other fields 1 MB."""

    status = 413
    type = "payload_too_large"
    close_code = 1009  # message too big


class UnsupportedMedia(ServiceError):
    """The body is neither a form nor JSON."""

    status = 415
    type = "unsupported_media_type"
    close_code = 1003  # unsupported data


class RateLimited(ServiceError):
    """The client made more requests than a rate limit allows."""

    status = 429
    type = "rate_limited"
    close_code = 1013  # try again later


class TooManyAtOnce(ServiceError):
    """The client has ``MAX_CONCURRENT_PER_CLIENT`` requests and connections open."""

    status = 429
    type = "too_many_at_once"
    close_code = 1013  # try again later


class AudioBudgetSpent(ServiceError):
    """The client has used up ``RATE_LIMIT_AUDIO_SECONDS_PER_HOUR``."""

    status = 429
    type = "audio_budget_spent"
    close_code = 1013  # try again later


class GenerationFailed(ServiceError):
    """The model or an encoder failed; the server's log has the reason."""

    type = "generation_failed"


class NotReady(ServiceError):
    """The model is loading, or the server is shutting down."""

    status = 503
    type = "not_ready"
    close_code = 1012  # service restart

    @classmethod
    def shutting_down(cls) -> NotReady:
        """Another server may answer at once."""
        return cls("the server is shutting down", retry_after_s=1)


class LimitsUnknown(ServiceError):
    """Redis does not answer, and ``RATE_LIMIT_ON_STORE_FAILURE`` is ``closed``."""

    status = 503
    type = "limits_unknown"
    close_code = 1013  # try again later


class Overloaded(ServiceError):
    """``MAX_QUEUE`` requests are waiting already, or too many uploads are."""

    status = 503
    type = "overloaded"
    close_code = 1013  # try again later


def shorten(value: object, limit: int = 80) -> str:
    """``repr`` of a value as a client sent it, cut so that an error stays one line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
