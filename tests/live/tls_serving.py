"""A server behind TLS, as ``magenta-bento serve --tls`` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from serving import COMPILE_CACHE, REPOSITORY, START_S, Server, free_port


@contextmanager
def serving_tls(folder: Path) -> Iterator[tuple[Server, Path]]:
    """The server, and the certificate that a client has to trust."""
    port = free_port()
    temp = folder / "tmp"
    temp.mkdir()
    certificate = folder / "tls" / "localhost.pem"
    environment = {
        **os.environ,
        "COMPILE_CACHE": str(COMPILE_CACHE),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(folder / "bentoml"),
        "MAGENTA_HOME": str(folder / "magenta"),
        "TLS_DIR": str(certificate.parent),
        "TMPDIR": str(temp),
    }
    log = folder / "server.log"
    command = [sys.executable, "-m", "magenta_bento.cli", "serve", "--tls", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"https://localhost:{port}", process, log, temp)
    try:
        _wait_until_healthy(server, certificate)
        yield server, certificate
    finally:
        server.stop()


def _wait_until_healthy(server: Server, certificate: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            # Closed, since a stopping server waits 30 s for a TLS client that says no goodbye.
            reply = requests.get(
                f"{server.url}/health",
                verify=str(certificate),
                headers={"Connection": "close"},
                timeout=5,
            )
        except (requests.ConnectionError, OSError):  # OSError: there is no certificate yet
            pass
        else:
            if reply.status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError("the server did not become healthy:\n" + "\n".join(server.lines()))
