"""From the bytes of a body to a validated request.

1. The body is read with its size bounded while it arrives.
2. Multipart, urlencoded and JSON bodies all become a list of values a field.
3. The request's own type validates them; every fault becomes one entry of one 400.

Invariant: text in a form stays as typed ("808", "true", "null" and "[brackets]" are prompts),
a file field only ever takes an uploaded file, and no file outlives its request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from magenta_bento.access.clients import KEY_PARAMETER
from magenta_bento.config import Settings
from magenta_bento.errors import (
    InvalidInput,
    PayloadTooLarge,
    Problem,
    SlowBody,
    UnsupportedMedia,
    shorten,
)
from magenta_bento.web.host import host_permitting
from magenta_bento.web.requests import MAX_AUDIO_PROMPTS, ApiRequest, Upload

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"

MAX_FIELDS = 128
MAX_FIELD_BYTES = 256 * 1024
MAX_PROBLEMS = 20  # an answer does not grow with what is wrong
# What a body may hold beside its files: fields, part headers and boundaries.
OVERHEAD_BYTES = 1_000_000
MIN_BYTES_PER_S = 8_000  # what a body has to arrive with, on average, once its time is up
# BentoML's own client writes form values as JSON, as no other client does.
_BENTOML_CLIENT = "BentoML HTTP Client/"

# Pydantic's wording, made to follow a field's name.
_WORDING = {
    "Input should be": "must be",
    "String should have": "must have",
    "List should have": "must have",
    "Field required": "is required",
}

R = TypeVar("R", bound=ApiRequest)
Values = dict[str, list[Any]]


@asynccontextmanager
async def parsed(request: Request, model: type[R], settings: Settings) -> AsyncIterator[R]:
    """The validated body of a request, or its query; its uploads are closed at the end.

    Args:
      request: Its body is read here, and not before.
      model: What it should be.
      settings: How large a body may be, and how slow.

    Raises:
      InvalidInput: Any field is wrong; all wrong ones are named.
      PayloadTooLarge: The body is, found out without reading all of it.
      UnsupportedMedia: The body is neither a form nor JSON.
      SlowBody: The body does not arrive.
      ClientDisconnect: The client went away.
    """
    form = FormData()
    try:
        if request.method == "GET":
            query = request.query_params.multi_items()
            form = FormData([item for item in query if item[0] != KEY_PARAMETER])
            values = _form_values(form, model, request)
        elif _media_type(request) == JSON:
            values = _json_values(await _read(request, settings))
        else:
            form = await _read_form(request, settings)
            values = _form_values(form, model, request)
        yield _validated(model, values)
    finally:
        await form.close()


def _media_type(request: Request) -> str:
    """The body's media type; none is JSON, as BentoML has it, if there is no body."""
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    media_type = given or JSON
    if media_type not in (MULTIPART, URLENCODED, JSON):
        raise UnsupportedMedia(
            f"the body must be {MULTIPART}, {URLENCODED} or {JSON}, got {shorten(given)}"
        )
    return media_type


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
    began, read = time.monotonic(), 0
    chunks = request.stream()
    while True:
        # It grows with what has arrived: neither a pause nor a trickle holds a request for long.
        allowed_s = bounds.patience_s + read / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout(began + allowed_s - time.monotonic()):
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


async def _read(request: Request, settings: Settings) -> bytes:
    """A body without files."""
    too_large = PayloadTooLarge(f"a body without files may have {OVERHEAD_BYTES / 1e6:g} MB")
    bounds = _Bounds(OVERHEAD_BYTES, too_large, settings.body_timeout_s)
    return b"".join([chunk async for chunk in _bounded(request, bounds)])


async def _read_form(request: Request, settings: Settings) -> FormData:
    if _media_type(request) == URLENCODED:
        return _urlencoded(await _read(request, settings))
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
        with host_permitting():  # files are kept on disk as they arrive
            form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the form can't be read: {error.message}") from error
    except ValueError as error:  # such as a charset that can't be looked up
        raise InvalidInput(f"the form can't be read: {error}") from error
    if not parser.ended:
        await form.close()
        raise InvalidInput("the form can't be read: it ends before its closing boundary")
    return form


def _json_values(body: bytes) -> Values:
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {shorten(str(error))}") from error
    if not isinstance(fields, dict):
        raise InvalidInput("the body must be a JSON object with a field each")
    if len(fields) > MAX_FIELDS:
        raise InvalidInput(f"the body may have {MAX_FIELDS} fields, got {len(fields)}")
    return {name: [value] for name, value in fields.items() if value is not None}


def _form_values(form: FormData, model: type[ApiRequest], request: Request) -> Values:
    from_bentoml = request.headers.get("user-agent", "").startswith(_BENTOML_CLIENT)
    values: Values = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            # Browsers send a nameless file of no bytes when none was chosen.
            if value.filename or value.size:
                values.setdefault(name, []).append(Upload(value.filename or "", value.file))
            continue
        meant = _from_json(value) if from_bentoml else value
        optional = name in model.model_fields and not model.model_fields[name].is_required()
        # A form sends every input it has: an optional one left empty was not given.
        if meant is None or (meant == "" and optional):
            continue
        values.setdefault(name, []).append(meant)
    return values


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _validated(model: type[R], values: Values) -> R:
    problems: list[Problem] = []
    fields: dict[str, Any] = {}
    uploads: dict[str, list[Upload]] = {}
    for name, given in values.items():
        is_file = name in model.multipart_fields
        if name not in model.model_fields:
            problems.append(_unknown(name, given[0]))
            continue
        is_list = _is_list(model, name)
        if problem := _misplaced(name, given, is_file=is_file, is_list=is_list):
            problems.append(problem)
        elif is_file:
            uploads[name] = given
            # A path that names the upload and leads nowhere.
            names = [PurePath(upload.filename) for upload in given]
            fields[name] = names if is_list else names[0]
        else:
            fields[name] = given if len(given) > 1 else given[0]
    faulty = {problem.field for problem in problems}
    try:
        request: R = model.model_validate(fields)
    except ValidationError as error:
        problems += [p for e in error.errors() if (p := _problem(e)).field not in faulty]
    except InvalidInput as error:
        problems += error.problems
    if problems:
        told = problems[:MAX_PROBLEMS]
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > len(told) else ""
        raise InvalidInput("; ".join(map(_sentence, told)) + more, problems=told)
    request._uploads.update(uploads)
    return request


def _unknown(name: str, value: Any) -> Problem:
    shown = None if isinstance(value, Upload) else shorten(value)
    # A name is as foreign as a value: of any length, and with characters that can't be sent.
    return Problem(shorten(name)[1:-1], "is not a field of this route", shown)


def _misplaced(name: str, given: list[Any], *, is_file: bool, is_list: bool) -> Problem | None:
    """What is wrong with the kind or number of a field's values."""
    are_files = [isinstance(value, Upload) for value in given]
    if is_file and not all(are_files):
        text = shorten(next(value for value in given if not isinstance(value, Upload)))
        return Problem(name, "must be an uploaded file; a URL or path is never fetched", text)
    if not is_file and any(are_files):
        return Problem(name, "must be a value, not an uploaded file")
    if len(given) > 1 and not is_list:
        return Problem(name, "must be given once", f"{len(given)} times")
    return None


def _is_list(model: type[ApiRequest], name: str) -> bool:
    return str(model.model_fields[name].annotation).startswith(("list", "typing.List"))


def _problem(error: Mapping[str, Any]) -> Problem:
    place = error["loc"]
    field = str(place[0]) if place else ""
    field += "".join(f"[{i}]" for i in place[1:] if isinstance(i, int))
    message = str(error["msg"]).removeprefix("Value error, ")
    for theirs, ours in _WORDING.items():
        message = message.replace(theirs, ours)
    shown = error["type"] != "missing" and bool(place)
    return Problem(field, message, shorten(error["input"]) if shown else None)


def _sentence(problem: Problem) -> str:
    where = f"{problem.field}: " if problem.field else ""
    got = f", got {problem.value}" if problem.value is not None else ""
    return f"{where}{problem.message}{got}"
