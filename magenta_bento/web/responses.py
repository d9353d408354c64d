"""What goes back: errors in their one shape, and audio with what a client may want to know.

Invariant: every error of every route has the body ``{"error", "type", "detail"}``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from magenta_bento.audio.formats import AudioFormat
from magenta_bento.errors import ServiceError
from magenta_bento.web import headers as header_table
from magenta_bento.web.response_models import Error, body

MAX_FILENAME_CHARS = 60
STATUS_CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is left to read it, but the log keeps it


def error_response(error: ServiceError) -> JSONResponse:
    return json_response(Error.from_service_error(error), error.status, error.headers)


def json_response(
    answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(body(answer), status_code=status, headers=dict(headers or {}))


@dataclass(frozen=True)
class Rendered:
    """A finished piece.

    Attributes:
      data: The file's bytes.
      format: Its format.
      title: What it is named after.
      seed: What makes it again.
      model: The model that made it.
      audio_s: Its length, seconds.
      took_s: Time from the request's admission to the finished file, seconds.
    """

    data: bytes
    format: AudioFormat
    title: str
    seed: int
    model: str
    audio_s: float
    took_s: float


def audio_response(piece: Rendered) -> Response:
    name = f"{slug(piece.title) or 'music'}-{piece.seed}.{piece.format.extension}"
    return Response(
        piece.data,
        media_type=piece.format.media_type,
        headers={
            header_table.DISPOSITION.name: _attachment(piece, name),
            header_table.SEED.name: str(piece.seed),
            header_table.MODEL.name: piece.model,
            header_table.DURATION.name: f"{piece.audio_s:.2f}",
            header_table.GENERATION_TIME.name: f"{piece.took_s:.3f}",
            header_table.REALTIME_FACTOR.name: f"{piece.audio_s / max(piece.took_s, 1e-3):.2f}",
        },
    )


def slug(text: str) -> str:
    """Lower-case ASCII words joined by hyphens; "" where nothing is left."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", ascii_text.lower())
    return "-".join(words)[:MAX_FILENAME_CHARS].strip("-")


def _attachment(piece: Rendered, name: str) -> str:
    """RFC 6266: a safe name for all, and the title's own script for those who can show it."""
    plain = f'attachment; filename="{name}"'
    if piece.title.isascii():
        return plain
    words = re.findall(r"\w+", unicodedata.normalize("NFC", piece.title))
    full = "-".join(words)[:MAX_FILENAME_CHARS]
    if not full:
        return plain
    return f"{plain}; filename*=UTF-8''{quote(f'{full}-{piece.seed}.{piece.format.extension}')}"
