"""Reads the body of a request, with its size and its time bounded while it arrives.

Invariant: no more of a body is read than its bound and one chunk, a body that stops arriving is
given up, and files that were received are closed when the rest of the body can't be read.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from magenta_bento.config import Settings
from magenta_bento.errors import (
    InvalidInput,
    Overloaded,
    PayloadTooLarge,
    SlowBody,
    UnsupportedMedia,
    shorten,
)
from magenta_bento.web.request_models import MAX_AUDIO_PROMPTS

log = logging.getLogger("magenta_bento")

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"

# Of a form, in which each note of a chord is a field; of JSON, where a list is one.
MAX_FIELDS = 256
MAX_FIELD_BYTES = 256 * 1024
# What a body may hold beside its files: fields, part headers and boundaries.
OVERHEAD_BYTES = 1_000_000
MIN_BYTES_PER_S = 8_000  # what a body has to arrive with, on average, once its time is up

_HOST_IS_EXHAUSTED = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
    )
)
_EXHAUSTED_RETRY_AFTER_S = 10


def media_type(request: Request) -> str:
    """The body's media type; a request without one is JSON, as BentoML has it.

    Raises:
      UnsupportedMedia: It is neither a form nor JSON.
    """
    sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
    known = sent or JSON
    if known not in (MULTIPART, URLENCODED, JSON):
        raise UnsupportedMedia(
            f"the body must be {MULTIPART}, {URLENCODED} or {JSON}, got {shorten(sent)}"
        )
    return known


@dataclass(frozen=True)
class _Bounds:
    """What a body has to keep to.

    Attributes:
      max_bytes: Its size.
      too_large: Raised if it has more.
      patience_s: How long it may take, if it comes more slowly than ``MIN_BYTES_PER_S``.
    """

    max_bytes: int
    too_large: PayloadTooLarge
    patience_s: float


async def _bounded(request: Request, bounds: _Bounds) -> AsyncGenerator[bytes, None]:
    """The body's chunks; raises as soon as they are too many or too late."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bounds.max_bytes:
        raise bounds.too_large
    started, read = time.monotonic(), 0
    chunks = request.stream()
    while True:
        # It grows with what has arrived: neither a pause nor a trickle holds a request for long.
        allowed_s = bounds.patience_s + read / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout(started + allowed_s - time.monotonic()):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SlowBody(
                f"the body is too slow: {read:,} bytes came in {allowed_s:g} seconds"
            ) from None
        read += len(chunk)
        if read > bounds.max_bytes:
            raise bounds.too_large
        yield chunk


async def read_without_files(request: Request, settings: Settings) -> bytes:
    """The bytes of a JSON or urlencoded body.

    Raises:
      PayloadTooLarge: They are more than ``OVERHEAD_BYTES``.
      SlowBody: They don't arrive in time.
      ClientDisconnect: The client left.
    """
    too_large = PayloadTooLarge(f"a body without files may have {OVERHEAD_BYTES / 1e6:g} MB")
    bounds = _Bounds(OVERHEAD_BYTES, too_large, settings.body_timeout_s)
    return b"".join([chunk async for chunk in _bounded(request, bounds)])


async def read_form(request: Request, settings: Settings) -> FormData:
    """A multipart or urlencoded body; the caller closes it, and with it its files.

    Raises:
      InvalidInput: It can't be read as what its media type says.
      PayloadTooLarge: Its files, or its fields, are too large.
      SlowBody: It does not arrive in time.
      Overloaded: The host has no room for its files.
      ClientDisconnect: The client left.
    """
    if media_type(request) == URLENCODED:
        return _urlencoded(await read_without_files(request, settings))
    max_file_bytes = settings.max_file_size_bytes
    too_large = PayloadTooLarge(f"uploads may have {max_file_bytes / 1e6:g} MB together")
    bounds = _Bounds(max_file_bytes + OVERHEAD_BYTES, too_large, settings.body_timeout_s)
    form = await _multipart(request, bounds)
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if sum(file.size or 0 for file in files) > max_file_bytes:
        await form.close()
        raise too_large
    return form


def _urlencoded(body: bytes) -> FormData:
    """Not by Starlette's parser: it takes unescaped UTF-8, which curl sends, for Latin-1."""
    try:
        pairs: list[tuple[str, str | UploadFile]] = list(
            parse_qsl(
                body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
            )
        )
    except ValueError as error:
        raise InvalidInput(f"the form can't be read: {error}") from error
    return FormData(pairs)


class _WholeMultiPart(MultiPartParser):
    """Starlette's parser, which takes a body that was cut off for a shorter one."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _multipart(request: Request, bounds: _Bounds) -> FormData:
    parser = _WholeMultiPart(
        request.headers,
        _bounded(request, bounds),
        max_files=MAX_AUDIO_PROMPTS,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        with _overloaded_if_host_is_exhausted():  # files are kept on disk as they arrive
            form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the form can't be read: {error.message}") from error
    except ValueError as error:  # such as a charset that can't be looked up
        raise InvalidInput(f"the form can't be read: {error}") from error
    if not parser.ended:
        await form.close()
        raise InvalidInput("the form can't be read: it ends before its closing boundary")
    return form


@contextmanager
def _overloaded_if_host_is_exhausted() -> Iterator[None]:
    """A host without disk space, files or memory is no fault of the request.

    Raises:
      Overloaded: In place of the host's OSError, which is for the log.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _HOST_IS_EXHAUSTED:
            raise
        log.error("the host refuses: %s", error)
        raise Overloaded(
            "the server is short of disk space or of files",
            retry_after_s=_EXHAUSTED_RETRY_AFTER_S,
        ) from error
