"""Clients that are connected and take nothing.

What was written for them lies in the kernel and in the web server, up to a whole file, where
nothing of ours can take it back; and a server that shuts down waits for it to leave.

Invariant: a connection whose client has acknowledged nothing for the time allowed is gone.
"""

from __future__ import annotations

import os
import socket
import sys

import psutil


def set_tcp_user_timeout(stall_s: float) -> None:
    """Has the kernel break off such connections, of those that are yet to be accepted.

    Args:
      stall_s: How long a client may take nothing of what is there for it (RFC 5482).
    """
    if sys.platform != "linux":
        return  # others keep such a connection until the client's own system gives up
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            with socket.socket(fileno=os.dup(connection.fd)) as listening:  # they inherit it
                milliseconds = round(1000 * stall_s)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
