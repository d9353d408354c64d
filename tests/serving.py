"""A real server for tests: the command that README gives, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

REPOSITORY = Path(__file__).parents[1]
SERVE = (sys.executable, "-m", "magenta_bento.cli", "serve")
SERVE_FAKE_MODEL = (sys.executable, "-m", "bentoml", "serve", "fake_service:MagentaBento")
COMPILE_CACHE = REPOSITORY / ".cache" / "xla"
# Tests ask for more than one client may, and a few slots take less time to compile.
DEFAULTS = {
    "MAX_STREAMS": "4",
    "RATE_LIMIT_PER_MINUTE": "0",
    "RATE_LIMIT_PER_HOUR": "0",
    "MAX_CONCURRENT_PER_CLIENT": "0",
}
START_S = 240  # a cold compile on a busy machine of two cores
STOP_S = 60
BELOW_EPHEMERAL = (10_000, 32_768)  # Linux gives outgoing connections the ports from there on


@dataclass
class Server:
    """A running server.

    Attributes:
      url: Without a slash at its end.
      process: The ``magenta-bento serve`` process; its children do the work.
      log: What it wrote to standard output and error.
      temp: Its folder for temporary files, made for it alone.
      certificate: What a client has to trust; None without TLS.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    temp: Path
    certificate: Path | None = None

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self._answers():
                    return
            except OSError:  # requests' errors too; and there may be no certificate yet
                pass
            time.sleep(0.2)
        raise AssertionError("the server did not become healthy:\n" + "\n".join(self.lines()))

    def _answers(self) -> bool:
        # Closed, since a stopping server waits 30 s for a TLS client that says no goodbye.
        closing = {"Connection": "close"}
        trusted = True if self.certificate is None else str(self.certificate)
        url = f"{self.url}/health"
        return requests.get(url, headers=closing, verify=trusted, timeout=5).status_code == 200

    def stop(self) -> int:
        """SIGTERM, as a supervisor does it; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextmanager
def serving(
    folder: Path,
    *,
    command: Sequence[str] = SERVE,
    fake_model: bool = False,
    cwd: Path = REPOSITORY,
    certificate: Path | None = None,
    port: int | None = None,
    healthy: bool = True,
    **settings: str,
) -> Iterator[Server]:
    """Starts a server and ends it afterwards.

    Args:
      folder: For its log and temporary files.
      command: What starts it; a port is added.
      fake_model: Start the service of ``fake_service`` instead, which needs no JAX: for tests
        of what a server does around its music.
      cwd: Where.
      certificate: The one it will serve TLS with, if it does.
      port: A free one if None.
      healthy: Wait until it is.
      **settings: Environment variables.
    """
    port = port or free_port()
    temp = folder / "tmp"
    temp.mkdir(exist_ok=True)
    log = folder / "server.log"
    environment = {
        **os.environ,
        **({"PYTHONPATH": _python_path()} if fake_model else {}),
        "COMPILE_CACHE": str(COMPILE_CACHE),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(folder / "bentoml"),
        "MAGENTA_HOME": str(folder / "magenta"),
        "TMPDIR": str(temp),
        **DEFAULTS,
        **settings,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*(SERVE_FAKE_MODEL if fake_model else command), "--port", str(port)],
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    host = "https://localhost" if certificate else "http://127.0.0.1"
    server = Server(f"{host}:{port}", process, log, temp, certificate)
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


def _python_path() -> str:
    """Where a fake service finds itself, and the package that is tested."""
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def free_port() -> int:
    """A port that no client's connection is given while a server is on its way to it."""
    while True:
        port = random.randrange(*BELOW_EPHEMERAL)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
