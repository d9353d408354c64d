"""The worker process: how it ends, and how its threads take turns.

BentoML runs the server as a worker process, which a supervising process starts again when it ends.

Invariant: no worker outlives its supervisor, and no worker that failed goes on serving.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import psutil

EXIT_DELAY_S = 1.0  # in which the answers of failed requests are sent
SWITCH_INTERVAL_S = 0.0005
PR_SET_PDEATHSIG = 1  # linux/prctl.h
EXIT_FAILED = 70  # sysexits.h: internal software error


def shorten_switch_interval() -> None:
    """Has Python's threads take turns more often, for the sake of the device thread.

    The device thread needs the interpreter a few times a step, for microseconds. Each time it may
    have to wait one interval for the event loop; Python's default is an eighth of a frame.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def before_sigterm(action: Callable[[], None]) -> None:
    """Has ``action`` called on SIGTERM, before the server's own handler."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers; tests run servers in other threads
    previous = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        action()
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, handle)


def fail(error: BaseException, *, while_loading: bool) -> None:
    """Ends the process, after ``EXIT_DELAY_S`` seconds.

    BentoML starts a worker again that ended, which helps if a model failed while it served. If
    it failed while it loaded, it would fail each time: then BentoML is ended too.

    Args:
      error: What failed; it has been logged already.
      while_loading: Whether the model was being loaded.
    """
    # This comes first, so that the process ends even if what follows raises.
    threading.Timer(EXIT_DELAY_S, os._exit, [EXIT_FAILED]).start()
    if while_loading and (supervisor := _supervisor()) is not None:
        supervisor.terminate()


def end_with_supervisor() -> None:
    """Has the kernel send SIGTERM to this process when its supervisor ends.

    Nothing else would end it, and a worker without a supervisor keeps the port from the next one.
    """
    if (supervisor := _supervisor()) is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor.pid:  # the supervisor ended before the call above
        os.kill(os.getpid(), signal.SIGTERM)


def _supervisor() -> psutil.Process | None:
    """BentoML's process that supervises this one; None if there is none."""
    parent = psutil.Process().parent()
    is_bentoml = parent is not None and "bentoml" in " ".join(parent.cmdline())
    return parent if is_bentoml else None
