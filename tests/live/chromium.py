"""A headless Chromium, driven by its DevTools protocol.

Invariant: it has a profile of its own, and is gone when the context is left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets

NAMES = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)


class Tab:
    """One page.

    Attributes:
      complaints: What it wrote to the console as an error, and exceptions.
    """

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._requested: dict[str, str] = {}
        self.complaints: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)
        self._seen: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a DevTools method; returns its result."""
        call_id = next(self._ids)
        message = {"id": call_id, "method": method, "params": parameters}
        await self._socket.send(json.dumps(message))
        while (answer := await self._next()).get("id") != call_id:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    @property
    def requested(self) -> list[str]:
        """The URLs that the page asked for."""
        return list(self._requested.values())

    async def open(self, url: str) -> None:
        """Goes to a page and waits until it is loaded."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        self._seen.clear()
        await self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._seen:
            await self._next()

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            message: dict[str, Any] = json.loads(await self._socket.recv())
        told = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self._requested[told["requestId"]] = told["request"]["url"]
            case "Network.loadingFailed" if told.get("blockedReason") == "csp":
                del self._requested[told["requestId"]]  # the page forbade it: nothing was sent
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(json.dumps(told["entry"]))
        self._seen.append(message.get("method", ""))
        return message


@asynccontextmanager
async def tab(chromium: str, profile: Path) -> AsyncIterator[Tab]:
    """A fresh browser with one empty page.

    Args:
      chromium: The program.
      profile: A folder of its own, which may not exist yet.
    """
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    try:
        browser = ""
        async with asyncio.timeout(LIMIT_S):
            while not browser:
                line = (await process.stderr.readline()).decode()
                assert line, "Chromium did not start"
                browser = line.removeprefix("DevTools listening on ") if "ws://" in line else ""
        reading = asyncio.create_task(process.stderr.read())  # or its pipe fills up
        try:
            async with websockets.connect(await _page(browser.strip()), max_size=None) as socket:
                yield Tab(socket)
        finally:
            reading.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _page(browser: str) -> str:
    """The address of the browser's one page."""
    async with websockets.connect(browser) as socket:
        for call_id in itertools.count(1):
            await socket.send(json.dumps({"id": call_id, "method": "Target.getTargets"}))
            answer = json.loads(await asyncio.wait_for(socket.recv(), LIMIT_S))
            targets = answer["result"]["targetInfos"]
            pages = [target["targetId"] for target in targets if target["type"] == "page"]
            if pages:
                return f"{browser.split('/devtools')[0]}/devtools/page/{pages[0]}"
            await asyncio.sleep(0.01)
    raise AssertionError("unreachable")
