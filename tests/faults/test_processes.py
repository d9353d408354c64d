"""Signals to the server's two processes: BentoML's, which watches, and the worker, which serves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from serving import Server, serving
from workers import worker_of

LIMIT_S = 60
PIECE_S = 20


@contextmanager
def begun(folder: Path, **settings: str) -> Iterator[tuple[Server, psutil.Process]]:
    """A server whose worker answers, though it may be loading; nothing of it is left."""
    with serving(folder, healthy=False, fake_model=True, MAX_STREAMS="1", **settings) as server:
        until(lambda: answers(server))
        worker = worker_of(server)
        try:
            yield server, worker
        finally:
            if worker.is_running():
                worker.kill()


@pytest.fixture(scope="module", autouse=True, name="left")
def _left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a container, whose worker was killed.

    BentoML looks after its workers every 10 seconds; the tests before the one that waits for it
    take as long.
    """
    folder = tmp_path_factory.mktemp("container")
    with begun(folder, BENTOML_CONTAINERIZED="true") as (server, worker):
        worker.kill()
        yield server


def answers(server: Server) -> bool:
    try:
        requests.get(f"{server.url}/health", timeout=5)
    except requests.RequestException:
        return False
    return True


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_second_sigterm_hurries_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, fake_model=True, MAX_STREAMS="1") as server:
        worker = worker_of(server)
        body = {"prompt": "a long goodbye", "duration": PIECE_S, "format": "wav"}
        replies: list[requests.Response] = []

        def ask() -> None:
            replies.append(requests.post(f"{server.url}/generate/text", json=body, timeout=LIMIT_S))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: requests.get(f"{server.url}/health").json()["streams"]["active"])
        for _ in range(3):
            server.process.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        asking.join()
        assert server.process.wait(LIMIT_S) == 0
        assert not worker.is_running()
    assert replies[0].status_code == 200
    assert len(replies[0].content) > PIECE_S * 192_000


def test_no_worker_outlives_the_process_that_watches_it(tmp_path: Path) -> None:
    """Else it would hold the port, and the server could not be started again."""
    with begun(tmp_path) as (server, worker):
        helpers = worker.children(recursive=True)
        server.process.kill()
        server.process.wait()
        try:
            worker.wait(LIMIT_S / 2)
        except psutil.TimeoutExpired:
            pytest.fail("the worker still serves, and nobody watches it")
        until(lambda: not any(helper.is_running() for helper in helpers))
        assert not answers(server)


def test_in_a_container_the_end_of_the_worker_is_the_end_of_the_server(left: Server) -> None:
    """Whoever runs the container starts it again; elsewhere BentoML starts a new worker."""
    assert left.process.wait(LIMIT_S) != 0
