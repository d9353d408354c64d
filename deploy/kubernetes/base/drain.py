"""Holds a pod that is to stop until nobody listens to it: Kubernetes runs this before SIGTERM.

SIGTERM closes WebSockets at once, and leaves other streams SHUTDOWN_GRACE_S. A pod that is to
stop gets no new connections, so that waiting for those it has is enough:

    python drain.py 3600    # for so many seconds at most
"""

from __future__ import annotations

import http.client
import json
import sys
import time

HOST, PORT = "127.0.0.1", 3000
SETTLE_S = 10.0  # until all who route to pods know that this one stops
LOOK_EVERY_S = 2.0
LOOKS = 3  # in a row: one slow answer is no silence
ANSWER_S = 5.0


def drain(at_most_s: float, host: str = HOST, port: int = PORT) -> None:
    """Returns when nobody plays or waits, or when the time is over."""
    deadline = time.monotonic() + at_most_s
    time.sleep(min(SETTLE_S, at_most_s))
    silent = 0
    while silent < LOOKS and time.monotonic() < deadline:
        silent = 0 if is_busy(host, port) else silent + 1
        time.sleep(LOOK_EVERY_S)


def is_busy(host: str, port: int) -> bool:
    """Whether somebody plays or waits; nobody does on a server that does not answer."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/health")
        streams = json.load(connection.getresponse()).get("streams", {})
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return bool(streams.get("active") or streams.get("waiting"))


if __name__ == "__main__":
    drain(float(sys.argv[1]))
