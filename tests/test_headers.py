"""The table of response headers is the only place where their names stand."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from magenta_bento.web import headers
from magenta_bento.web.headers import HEADERS, When

REPOSITORY = Path(__file__).parents[1]
SOURCES = [*(REPOSITORY / "magenta_bento").rglob("*.py"), REPOSITORY / "service.py"]
NAMES = {
    *(each.name.lower() for each in HEADERS),
    *(name.lower() for name in (headers.CONTENT_SECURITY_POLICY, headers.CACHE_CONTROL)),
    *(name.lower() for name in headers.PROTECTION),
    *(name.lower() for name in headers.REQUEST_HEADERS if name != "Content-Type"),
}


def test_no_name_is_written_out_twice() -> None:
    written = Counter(
        node.value.lower()
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert {name: written[name] for name in NAMES} == dict.fromkeys(NAMES, 1)


def test_each_header_is_there_once_and_says_what_it_means() -> None:
    assert len({each.name.lower() for each in HEADERS}) == len(HEADERS)
    assert all(each.meaning.endswith(".") and each.schema["type"] for each in HEADERS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 429, 500, 503])
def test_every_error_has_the_id_of_its_request(status: int) -> None:
    names = {each.name for each in headers.of_error(status)}
    assert headers.REQUEST_ID.name in names
    assert (headers.RETRY_AFTER.name in names) == (status in (429, 503))
    assert (headers.AUTHENTICATE.name in names) == (status == 401)


def test_pages_may_read_all_but_how_to_send_a_key() -> None:
    exposed = headers.cors_options(["https://a.example"])["expose_headers"]
    assert {each.name for each in HEADERS} - set(exposed) == {headers.AUTHENTICATE.name}


def test_headers_of_each_occasion_are_sent_then() -> None:
    assert {each.when for each in headers.sent(When.MUSIC)} == {When.EVERY_ANSWER, When.MUSIC}
