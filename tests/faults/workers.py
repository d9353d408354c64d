"""The processes of a real server."""

from __future__ import annotations

import psutil
from serving import Server


def worker_of(server: Server) -> psutil.Process:
    """The process that serves: the child of the one that watches."""
    for child in psutil.Process(server.process.pid).children():
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:  # it has ended meanwhile
            continue
        if "_bentoml_impl.worker" in command:
            return child
    raise AssertionError("the server has no worker")
