"""Swagger UI's "Try it out": what it fills in by itself is a request that works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import NAMES, Tab, tab
from programs import program
from serving import Server

pytestmark = pytest.mark.long

OPERATIONS = {
    "Generate": ["generate_text", "generate_blend"],
    "Stream": ["stream_blend", "stream_text_by_query", "stream_blend_by_query"],
    "Embed": ["embed_text"],
    "Server": ["health"],
}
FIND = """
new Promise((resolve, reject) => {
  const look = (tries) => {
    const found = document.querySelector(".opblock.is-open " + %s);
    if (found) resolve(found.innerText);
    else if (tries) setTimeout(look, 50, tries - 1);
    else reject(new Error(document.querySelector(".opblock.is-open")?.innerText));
  };
  look(400);
})
"""
STATUS = ".live-responses-table .response .response-col_status"


@pytest.fixture(scope="module")
def chromium() -> str:
    return program(*NAMES)


async def shown(page: Tab, selector: str) -> str:
    """The text of an element of the open operation, once it is there."""
    return str(await page.run(FIND % json.dumps(selector)))


@pytest.mark.parametrize(
    ("tag", "operation"), [(tag, name) for tag, names in OPERATIONS.items() for name in names]
)
async def test_what_is_filled_in_works(
    server: Server, chromium: str, tmp_path: Path, tag: str, operation: str
) -> None:
    async with tab(chromium, tmp_path / "profile") as page:
        await page.open(f"{server.url}/docs#/{tag}/{operation}")
        for button in (".try-out__btn", ".execute"):
            await shown(page, button)
            await page.run(f'document.querySelector(".opblock.is-open {button}").click()')
        assert (await shown(page, STATUS)).split()[0] == "200"
