"""How much one client may ask for: requests in a minute and in an hour, seconds of music.

Requests are counted exactly, in a moving window: any 60 seconds hold at most so many. Seconds
of music would make such a log long, so they are estimated from two neighbouring windows (a
sliding window counter). Both are the ``limits`` library's.

Invariant: with a shared store, several servers grant together what one would grant alone.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter
from limits.util import WindowStats

from magenta_bento.access.store import RETRY_S, Store
from magenta_bento.config import Settings
from magenta_bento.errors import AudioBudgetSpent, LimitsUnknown, RateLimited
from magenta_bento.metrics import Metrics

RATE_LIMIT_HEADER = "RateLimit"
POLICY_HEADER = "RateLimit-Policy"


@dataclass(frozen=True)
class Policy:
    """One limit.

    Attributes:
      name: What the headers call it.
      quota: How many in a window.
      window: Its length in words.
      item: The same for the library.
      unit: What is counted, if not requests.
    """

    name: str
    quota: int
    window: str
    item: RateLimitItem
    unit: str = ""

    @property
    def header_member(self) -> str:
        """A member of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""
        unit = f';qu="{self.unit}"' if self.unit else ""
        return f'"{self.name}";q={self.quota};w={self.item.get_expiry()}{unit}'


class Limits:
    """Counts the requests and the seconds of music of each client.

    Args:
      settings: The quotas, and whether requests pass while the store is down.
      store: Where the counters are.
      metrics: Where refusals are counted.
    """

    def __init__(self, settings: Settings, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._refused = metrics.refused
        self._fails_open = settings.rate_limit_on_store_failure == "open"
        self._exact = MovingWindowRateLimiter(store.storage)
        self._estimated = SlidingWindowCounterRateLimiter(store.storage)
        # Shortest window first: a request that the hour refuses has then been counted in the
        # minute only, which is over sooner.
        self._requests = [
            Policy(name, quota, window, item(quota, namespace="requests"))
            for name, quota, window, item in (
                ("minute", settings.rate_limit_per_minute, "a minute", RateLimitItemPerMinute),
                ("hour", settings.rate_limit_per_hour, "an hour", RateLimitItemPerHour),
            )
            if quota
        ]
        seconds = settings.rate_limit_audio_seconds_per_hour
        self._audio: Policy | None = None
        if seconds:
            hourly = RateLimitItemPerHour(seconds, namespace="audio")
            self._audio = Policy("audio", seconds, "an hour", hourly, "audio-seconds")

    @property
    def any_quota(self) -> bool:
        return bool(self._requests or self._audio)

    @property
    def unavailable(self) -> bool:
        """Whether all requests are refused because nothing can be counted."""
        return self.any_quota and not self._store.up and not self._fails_open

    async def request(self, client: str) -> dict[str, str]:
        """Counts a request; returns the headers that say what is left.

        Raises:
          RateLimited: It is one too many; the error's headers say what is left.
          LimitsUnknown: The store is down, and the setting says that nothing passes then.
        """
        left: dict[str, str] = {}
        for policy in self._requests:
            granted = await self._store.ask(self._exact.hit(policy.item, client))
            if granted is None:
                self._without_store()
                return {}
            stats = await self._store.ask(self._exact.get_window_stats(policy.item, client))
            left[policy.name] = _left(policy, stats, granted)
            if not granted:
                self._refused.labels("rate_limited").inc()
                raise RateLimited(
                    f"{policy.quota} requests in {policy.window} are allowed",
                    retry_after_s=await self._until_all(client),
                    headers=self._headers(left),
                )
        return self._headers(left)

    async def _until_all(self, client: str) -> int:
        """Seconds until no limit is reached; the one that refused may not be the last."""
        waits_s = [1]
        for policy in self._requests:
            stats = await self._store.ask(self._exact.get_window_stats(policy.item, client))
            if stats is not None and not stats.remaining:
                waits_s.append(_until(stats))
        return max(waits_s)

    async def check_audio(self, client: str, seconds: float) -> None:
        """Refuses music for which the budget is too small, and counts nothing.

        Raises:
          AudioBudgetSpent: The budget is too small.
          LimitsUnknown: As :meth:`request`.
        """
        await self._budget(client, seconds, count=False)

    async def spend_audio(self, client: str, seconds: float) -> None:
        """Takes seconds of music from the budget; raises as :meth:`check_audio`."""
        await self._budget(client, seconds, count=True)

    async def _budget(self, client: str, seconds: float, *, count: bool) -> None:
        policy = self._audio
        if policy is None:
            return
        ask = self._estimated.hit if count else self._estimated.test
        cost = math.ceil(seconds)
        granted = await self._store.ask(ask(policy.item, client, cost=cost))
        if granted is None:
            self._without_store()
        elif not granted:
            stats = await self._store.ask(self._estimated.get_window_stats(policy.item, client))
            self._refused.labels("audio_budget_spent").inc()
            left = stats.remaining if stats else 0
            raise AudioBudgetSpent(
                f"{policy.quota} seconds of music in {policy.window} are allowed;"
                f" left: {left}, asked for: {cost}",
                retry_after_s=await self._until_budget(policy, client, cost),
                headers=self._headers({policy.name: _left(policy, stats, True)}),
            )

    async def _until_budget(self, policy: Policy, client: str, cost: int) -> int | None:
        """Seconds until so much is left; None if it never will be.

        The library only knows when there is one more. What it estimates falls with the share of
        the window before that is still in sight; when a window ends, it becomes the one before.
        """
        if cost > policy.quota:
            return None
        length_s = policy.item.get_expiry()
        ask = self._store.storage.get_sliding_window
        windows = await self._store.ask(ask(policy.item.key_for(client), length_s))
        if windows is None:
            return 1
        before, before_ends_s, current, current_ends_s = windows
        room = policy.quota - cost + 1  # what is used must be below this
        if current < room:
            wait_s = before_ends_s - (room - current) * length_s / max(before, 1)
        else:
            wait_s = current_ends_s - room * length_s / current
        return max(1, math.ceil(wait_s + 0.001))  # after that moment, not at it

    def _without_store(self) -> None:
        if not self._fails_open:
            self._refused.labels("limits_unknown").inc()
            raise LimitsUnknown(
                "limits can't be checked just now", retry_after_s=math.ceil(RETRY_S)
            )

    def _headers(self, left: dict[str, str]) -> dict[str, str]:
        policies = [*self._requests, *([self._audio] if self._audio else [])]
        if not policies:
            return {}
        policy = {POLICY_HEADER: ", ".join(each.header_member for each in policies)}
        return {**policy, RATE_LIMIT_HEADER: ", ".join(left.values())} if left else policy


def _left(policy: Policy, stats: WindowStats | None, granted: bool) -> str:
    """A member of RateLimit: how many are left, and in how many seconds there are more."""
    remaining = stats.remaining if stats and granted else 0
    return f'"{policy.name}";r={remaining};t={_until(stats)}'


def _until(stats: WindowStats | None) -> int:
    """Seconds until there is more."""
    return 1 if stats is None else max(1, math.ceil(stats.reset_time - time.time()))
