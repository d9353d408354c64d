"""Everything that decides which requests may pass, made from the settings.

Invariant: a server that asks for keys has some.
"""

from __future__ import annotations

from dataclasses import dataclass

from magenta_bento.access.concurrency import ConcurrencyLimit
from magenta_bento.access.keys import KeyRing
from magenta_bento.access.rate_limits import Limits
from magenta_bento.access.store import Store
from magenta_bento.access.throttle import RefusalThrottle
from magenta_bento.config import Settings
from magenta_bento.metrics import Metrics


def key_ring(settings: Settings) -> KeyRing | None:
    """The keys; None if none are asked for.

    Raises:
      ConfigError: They can't be read, or there is none.
    """
    if not settings.enable_auth:
        return None
    return KeyRing(settings.api_keys.get_secret_value(), settings.api_keys_file)


@dataclass(frozen=True)
class AccessControl:
    """The keys and the limits of a server.

    Attributes:
      keys: The API keys; None if none are asked for.
      store: Where limits are counted.
      limits: How many requests and how many seconds of music a client may ask for.
      concurrency: How many requests a client may have open at once.
      throttle: How fast requests are refused.
    """

    keys: KeyRing | None
    store: Store
    limits: Limits
    concurrency: ConcurrencyLimit
    throttle: RefusalThrottle

    @classmethod
    def from_settings(cls, settings: Settings, metrics: Metrics) -> AccessControl:
        """Raises ConfigError as :func:`key_ring` and :class:`Store` do."""
        store = Store(settings.rate_limit_storage.get_secret_value(), metrics)
        return cls(
            keys=key_ring(settings),
            store=store,
            limits=Limits(settings, store, metrics),
            concurrency=ConcurrencyLimit(settings.max_concurrent_per_client, metrics),
            throttle=RefusalThrottle(settings.refusals_per_second),
        )

    async def refuses_all(self) -> bool:
        """Whether every request is refused, as the limits can't be counted."""
        return not await self.store.answers() and self.limits.unavailable
