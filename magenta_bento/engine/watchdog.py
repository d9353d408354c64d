"""Notices a device thread that does not come back.

What raises is caught where it is called. What never returns holds the only thread that could
tell its streams, so another one has to look.

Invariant: ``on_hang`` is called at most once, and only after one turn has lasted ``LIMIT_S`` of
this process's own time: a process that was stopped and goes on did not hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

LIMIT_S = 120.0  # far beyond any turn: the largest models on the slowest machines take seconds
LOOK_EVERY_S = 1.0


class Watchdog:
    """A thread that notices when another one does not come back from a turn.

    Args:
      on_hang: Called on the watchdog's own thread.
    """

    def __init__(self, on_hang: Callable[[], None]) -> None:
        self._on_hang = on_hang
        self._turns = 0
        self._at_rest = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch. Not for the threads that it calls or watches."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    # The watched thread.

    def heartbeat(self) -> None:
        """A turn begins."""
        self._turns += 1
        self._at_rest = False

    def idle(self) -> None:
        """From now on nothing is expected, until the next turn."""
        self._at_rest = True

    # The watchdog's thread.

    def _run(self) -> None:
        # Looks are counted, not seconds of a clock: a process that is stopped does not look.
        looks, seen = 0, 0
        while not self._over.wait(LOOK_EVERY_S):
            looks = 0 if self._at_rest or self._turns != seen else looks + 1
            seen = self._turns
            if looks * LOOK_EVERY_S >= LIMIT_S:
                self._on_hang()
                return
