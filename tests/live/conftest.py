"""What live tests share: a server that must not grumble."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests
from serving import Server

GRUMBLES = ("Traceback", "never retrieved", "was destroyed but it is pending", "ERROR", "CRITICAL")
LIMIT_S = 60


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left(server: Server) -> Iterator[None]:
    """After a module's tests the server has no busy slot and has complained of nothing."""
    already = len(server.lines())
    yield
    until_idle(server)
    grumbles = [line for line in server.lines()[already:] if any(g in line for g in GRUMBLES)]
    assert not grumbles


@pytest.fixture
def idle(server: Server) -> None:
    """The test begins with no stream playing."""
    until_idle(server)


def streams(server: Server) -> dict[str, int]:
    """Busy slots, their number, and who waits."""
    told: dict[str, int] = requests.get(f"{server.url}/health", timeout=10).json()["streams"]
    return told


def until_idle(server: Server) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (now := streams(server))["active"] or now["waiting"]:
        assert time.monotonic() < deadline, f"slots are still busy: {now}"
        time.sleep(0.02)
