"""How this process ends: BentoML runs it as a worker, and watches over it.

Invariant: no worker outlives the process that watches it, and none that failed goes on serving.
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

LAST_WORDS_S = 1.0  # for the answers of failed requests to leave before the process does
SWITCH_S = 0.0005
PR_SET_PDEATHSIG = 1  # linux/prctl.h
EXIT_FAILED = 70  # sysexits.h: internal software error


def favour_the_device() -> None:
    """Has Python's threads take turns more often.

    The device thread needs the interpreter a few times a step, for microseconds. Each time it may
    have to wait one interval for the event loop, and by default that is an eighth of a frame.
    """
    sys.setswitchinterval(SWITCH_S)


def before_sigterm(action: Callable[[], None]) -> None:
    """Adds to what happens on SIGTERM; the server's own handler still runs."""
    if threading.current_thread() is not threading.main_thread():
        return  # in a test's server thread there are no signals to handle
    usual = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        action()
        if callable(usual):
            usual(number, frame)

    signal.signal(signal.SIGTERM, handle)


def fail(error: BaseException, *, while_loading: bool) -> None:
    """Ends the process, once clients had their answers.

    BentoML starts a worker that ended anew, which mends a model that broke while it served.
    What fails while it loads would fail for ever: then BentoML is ended too.
    """
    # First: whatever fails after it, a server that failed does not stay.
    threading.Timer(LAST_WORDS_S, os._exit, [EXIT_FAILED]).start()
    if while_loading and (supervisor := _supervisor()) is not None:
        supervisor.terminate()


def end_with_supervisor() -> None:
    """Has the kernel tell this process when the one that watches it ends.

    Nobody else would, and a worker that is left alone holds the port.
    """
    if (supervisor := _supervisor()) is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor.pid:  # it ended before that
        os.kill(os.getpid(), signal.SIGTERM)


def _supervisor() -> psutil.Process | None:
    """BentoML's own process, which watches this one; None if there is none."""
    # bentoml: its arbiter is the parent of each worker, and known by its command line only.
    parent = psutil.Process().parent()
    is_bentoml = parent is not None and "bentoml" in " ".join(parent.cmdline())
    return parent if is_bentoml else None
