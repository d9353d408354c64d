"""A real Redis for tests, which can hang, die and come back.

Invariant: it listens on this machine only, writes nothing to a disk, and is gone when the
context is left.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from programs import program
from serving import free_port

PROGRAM = "redis-server"
START_S = 20.0
STOP_S = 10.0


class RedisServer:
    """See the module.

    Attributes:
      url: As RATE_LIMIT_STORAGE takes it.
    """

    def __init__(self, executable: str, password: str) -> None:
        self._port = free_port()
        self._command = [executable, "--port", str(self._port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no"]
        if password:
            self._command += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it, empty, and waits until it listens."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("redis-server does not listen")

    @property
    def running(self) -> bool:
        return self._process is not None

    def pause(self) -> None:
        """Makes it hang: it takes connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it; what it held is lost."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_S)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("it does not run")
        self._process.send_signal(number)


@contextmanager
def redis_server(*, password: str = "", started: bool = True) -> Iterator[RedisServer]:
    """A Redis on a free port.

    Args:
      password: What it asks for; "" for none.
      started: Whether it runs already.
    """
    server = RedisServer(program(PROGRAM), password)
    try:
        if started:
            server.start()
        yield server
    finally:
        server.stop()
