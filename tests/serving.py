"""A real server for tests: the command that README gives, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

REPOSITORY = Path(__file__).parents[1]
COMPILE_CACHE = REPOSITORY / ".cache" / "xla"
START_S = 240  # a cold compile on a busy machine of two cores
STOP_S = 60


@dataclass
class Server:
    """A running server.

    Attributes:
      url: Without a slash at its end.
      process: The ``magenta-bento serve`` process; its children do the work.
      log: What it wrote to standard output and error.
      temp: Its folder for temporary files, made for it alone.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    temp: Path

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.2)
        raise AssertionError("the server did not become healthy:\n" + "\n".join(self.lines()))

    def stop(self) -> int:
        """SIGTERM, as a supervisor does it; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextmanager
def serving(folder: Path, *, healthy: bool = True, **settings: str) -> Iterator[Server]:
    """Starts a server on a free port and ends it afterwards.

    Args:
      folder: For its log and temporary files.
      healthy: Wait until it is.
      **settings: Environment variables.
    """
    port = free_port()
    temp = folder / "tmp"
    temp.mkdir(exist_ok=True)
    log = folder / "server.log"
    environment = {
        **os.environ,
        "COMPILE_CACHE": str(COMPILE_CACHE),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(folder / "bentoml"),
        "MAGENTA_HOME": str(folder / "magenta"),
        "TMPDIR": str(temp),
        **settings,
    }
    command = [sys.executable, "-m", "magenta_bento.cli", "serve", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log, temp)
    try:
        if healthy:
            server.wait_until_healthy()
        yield server
    finally:
        if process.poll() is None:
            try:
                server.stop()
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
