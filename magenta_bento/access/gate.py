"""All that decides who may pass, made from the settings.

Invariant: a server that asks for keys has some.
"""

from __future__ import annotations

from dataclasses import dataclass

from magenta_bento.access.keys import KeyRing
from magenta_bento.access.limits import Limits
from magenta_bento.access.pace import Pace
from magenta_bento.access.places import Places
from magenta_bento.access.store import Store
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
class Gate:
    """See the module.

    Attributes:
      keys: None if none are asked for.
      store: Where limits are counted.
      limits: How often, and how much.
      places: How many at once.
      pace: How fast the others are refused.
    """

    keys: KeyRing | None
    store: Store
    limits: Limits
    places: Places
    pace: Pace

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> Gate:
        """Raises ConfigError as :func:`key_ring` and :class:`Store` do."""
        store = Store(settings.rate_limit_storage.get_secret_value(), metrics)
        return cls(
            keys=key_ring(settings),
            store=store,
            limits=Limits(settings, store, metrics),
            places=Places(settings.max_concurrent_per_client, metrics),
            pace=Pace(settings.refusals_per_second),
        )

    async def refuses_all(self) -> bool:
        """Whether nothing can pass, as the limits can't be counted."""
        return not await self.store.answers() and self.limits.unknown
