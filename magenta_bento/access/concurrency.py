"""How many requests one client has open at once.

Counted in this process alone: what a crashed server had open must not stay open in a store.

Invariant: a client without open requests takes no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from magenta_bento.errors import TooManyAtOnce
from magenta_bento.metrics import Metrics

RETRY_AFTER_S = 1  # one of them may end at any moment


class ConcurrencyLimit:
    """Bounds how many requests each client has open at once.

    Args:
      max_open: The bound for one client; 0 for any number.
      metrics: Where refusals are counted.
    """

    def __init__(self, max_open: int, metrics: Metrics) -> None:
        self._max_open = max_open
        self._refused = metrics.refused
        self._open: Counter[str] = Counter()

    @contextmanager
    def acquire(self, client: str) -> Iterator[None]:
        """Counts a request as open for as long as the context manager lasts.

        Raises:
          TooManyAtOnce: The client has as many open as it may.
        """
        if self._max_open and self._open[client] >= self._max_open:
            self._refused.labels("too_many_at_once").inc()
            raise TooManyAtOnce(
                f"{self._max_open} requests at once are allowed", retry_after_s=RETRY_AFTER_S
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
