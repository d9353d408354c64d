"""Where limits are counted: in this process, or in a Redis that several servers share.

Invariant: nobody waits for a store that is down longer than ``PATIENCE_S``, and while it is
down only one question every ``RETRY_S`` is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis.exceptions
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.errors import StorageError
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from magenta_bento.config import IN_MEMORY
from magenta_bento.errors import ConfigError
from magenta_bento.metrics import Metrics

log = logging.getLogger("magenta_bento")

PATIENCE_S = 1.0
PARTS = 4
RETRY_S = 2.0
KEY_PREFIX = "magenta-bento"
# A question takes about a millisecond; more of them wait for a connection, within their patience.
CONNECTIONS = 16
_ANY_KEY = "up"

T = TypeVar("T")


class Store:
    """The storage of the ``limits`` library, asked with a bound on the time of each answer.

    Args:
      url: ``memory://``, or the address of a Redis; it may hold a password and is never shown.
      metrics: Where its being up or down is shown.

    Raises:
      ConfigError: The URL can't be read.
    """

    def __init__(self, url: str, metrics: Metrics) -> None:
        self.shared = url != IN_MEMORY
        self.storage = _redis(url) if self.shared else MemoryStorage()
        self.up = True
        self._ask_next = 0.0
        self._metrics = metrics
        metrics.limit_store_up.set(1)

    async def ask(self, question: Coroutine[Any, Any, T]) -> T | None:
        """The answer to a question, which is not asked while the store is down; then None."""
        if not self.shared:
            return await question  # this process can't be down, only busy
        now = time.monotonic()
        if not self.up:
            if now < self._ask_next:
                question.close()
                return None
            self._ask_next = now + RETRY_S  # others don't wait for this question's answer
        try:
            answer = await _in_time(question)
        except (redis.exceptions.RedisError, StorageError, OSError) as error:
            # An OSError is a TimeoutError too. The message may name the host, not the password.
            self._ask_next = time.monotonic() + RETRY_S
            self._set_up(False, f"{type(error).__name__}: {error}")
            return None
        self._set_up(True, "it answers again")
        return answer

    async def answers(self) -> bool:
        """Whether the store answers, asked now; while it is down, asked every ``RETRY_S`` only."""
        # The storage has a check() of its own, but it catches the errors that ``ask`` looks for.
        return await self.ask(self.storage.get(_ANY_KEY)) is not None

    def _set_up(self, up: bool, why: str) -> None:
        if up is not self.up:
            log.log(logging.INFO if up else logging.ERROR, "the store of the limits: %s", why)
            self._metrics.limit_store_up.set(1 if up else 0)
        self.up = up


async def _in_time(question: Coroutine[Any, Any, T]) -> T:
    """The answer, if it comes within ``PATIENCE_S``.

    Not by ``asyncio.timeout``, which waits for what it cancels: with all connections in use,
    redis-py 8 now and then swallows a cancellation and goes on until its own timeouts.

    Raises:
      TimeoutError: It does not.
    """
    asking = asyncio.ensure_future(question)
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else looks
    try:
        # In parts, for this process may stand still itself, while the answer lies at its socket.
        for _ in range(PARTS):
            done, _ = await asyncio.wait([asking], timeout=PATIENCE_S / PARTS)
            if done:
                return asking.result()
    finally:
        asking.cancel()
    raise TimeoutError(f"no answer in {PATIENCE_S:g} s")


def _redis(url: str) -> RedisStorage:
    try:
        pool = BlockingConnectionPool.from_url(
            url.replace("redis+unix://", "unix://", 1),
            max_connections=CONNECTIONS,
            # Twice PATIENCE_S: only for connections whose question was given up and goes on.
            timeout=2 * PATIENCE_S,
            socket_timeout=2 * PATIENCE_S,
            socket_connect_timeout=2 * PATIENCE_S,
            # Retried once, as the Redis may have closed a connection that was not in use.
            retry=Retry(NoBackoff(), 1),
        )
        # An address that can't be used raises here, and not at each question.
        pool.make_connection()  # type: ignore[no-untyped-call]
        return RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix=KEY_PREFIX,
            connection_pool=pool,  # type: ignore[arg-type]  # documented, not annotated
        )
    except (ValueError, TypeError):  # its message may hold a part of the password
        raise ConfigError("RATE_LIMIT_STORAGE: the address of the Redis can't be read") from None
