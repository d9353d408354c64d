"""From a body, a form or a query to a validated request.

1. ``web.bodies`` reads the body with its size bounded while it arrives.
2. Multipart, urlencoded and JSON bodies all become a list of values a field.
3. The request's own type validates them; every fault becomes one entry of one 400.

Invariant: text in a form stays as typed ("808", "true", "null" and "[brackets]" are prompts),
a file field only ever takes an uploaded file, and no file outlives its request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from magenta_bento.access.clients import KEY_PARAMETER
from magenta_bento.config import Settings
from magenta_bento.errors import InvalidInput, Problem, shorten
from magenta_bento.web.base_request import ApiRequest, Upload, is_list
from magenta_bento.web.bodies import (
    JSON,
    MAX_FIELDS,
    media_type,
    read_form,
    read_without_files,
)
from magenta_bento.web.response_models import MAX_PROBLEMS

# bentoml: its own client writes form values as JSON, as no other client does.
_BENTOML_CLIENT = "BentoML HTTP Client/"

# Pydantic's wording, made to follow a field's name.
_WORDING = {
    "Input should be": "must be",
    "String should have": "must have",
    "List should have": "must have",
    "Tuple should have": "must have",
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
      Overloaded: The host has no room for its files.
      ClientDisconnect: The client went away.
    """
    form = FormData()
    try:
        if request.method == "GET":
            query = request.query_params.multi_items()
            form = FormData([item for item in query if item[0] != KEY_PARAMETER])
            values = _form_values(form, model, request)
        elif media_type(request) == JSON:
            values = _json_values(await read_without_files(request, settings))
        else:
            form = await read_form(request, settings)
            values = _form_values(form, model, request)
        yield _validated(model, values)
    finally:
        await form.close()


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
        decoded = _json_or_text(value) if from_bentoml else value
        optional = name in model.model_fields and not model.model_fields[name].is_required()
        # A form sends every input it has: an optional one left empty was not given.
        if decoded is None or (decoded == "" and optional):
            continue
        values.setdefault(name, []).append(decoded)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _validated(model: type[R], values: Values) -> R:
    problems: list[Problem] = []
    fields: dict[str, Any] = {}
    uploads: dict[str, list[Upload]] = {}
    for name, field_values in values.items():
        is_file = name in model.multipart_fields
        if name not in model.model_fields:
            problems.append(_unknown(name, field_values[0]))
            continue
        takes_many = is_list(model.model_fields[name])
        if problem := _misplaced(name, field_values, is_file=is_file, is_list=takes_many):
            problems.append(problem)
        elif is_file:
            uploads[name] = field_values
            # A path that names the upload and leads nowhere.
            names = [PurePath(upload.filename) for upload in field_values]
            fields[name] = names if takes_many else names[0]
        else:
            fields[name] = field_values if len(field_values) > 1 else field_values[0]
    faulty = {problem.field for problem in problems}
    try:
        request: R = model.model_validate(fields)
    except ValidationError as error:
        problems += [p for e in error.errors() if (p := _problem(e)).field not in faulty]
    except InvalidInput as error:
        problems += error.problems
    if problems:
        first = problems[:MAX_PROBLEMS]
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > len(first) else ""
        raise InvalidInput("; ".join(map(_sentence, first)) + more, problems=first)
    request._uploads.update(uploads)
    return request


def _unknown(name: str, value: Any) -> Problem:
    text = None if isinstance(value, Upload) else shorten(value)
    # A name is as foreign as a value: of any length, and with characters that can't be sent.
    return Problem(shorten(name)[1:-1], "is not a field of this route", text)


def _misplaced(name: str, values: list[Any], *, is_file: bool, is_list: bool) -> Problem | None:
    """What is wrong with the kind or number of a field's values."""
    are_files = [isinstance(value, Upload) for value in values]
    if is_file and not all(are_files):
        text = shorten(next(value for value in values if not isinstance(value, Upload)))
        return Problem(name, "must be an uploaded file; a URL or path is never fetched", text)
    if not is_file and any(are_files):
        return Problem(name, "must be a value, not an uploaded file")
    if len(values) > 1 and not is_list:
        return Problem(name, "must be given once", f"{len(values)} times")
    return None


def _problem(error: Mapping[str, Any]) -> Problem:
    place = error["loc"]
    field = str(place[0]) if place else ""
    field += "".join(f"[{i}]" for i in place[1:] if isinstance(i, int))
    message = str(error["msg"]).removeprefix("Value error, ")
    for pydantic_words, words in _WORDING.items():
        message = message.replace(pydantic_words, words)
    has_value = error["type"] != "missing" and bool(place)
    return Problem(field, message, shorten(error["input"]) if has_value else None)


def _sentence(problem: Problem) -> str:
    where = f"{problem.field}: " if problem.field else ""
    got = f", got {problem.value}" if problem.value is not None else ""
    return f"{where}{problem.message}{got}"
