"""How many requests one client has open at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from magenta_bento.access.concurrency import ConcurrencyLimit
from magenta_bento.errors import TooManyAtOnce
from magenta_bento.metrics import Metrics

REASON = {"reason": "too_many_at_once"}


def test_a_client_has_so_many_places(metrics: Metrics, registry: CollectorRegistry) -> None:
    limit = ConcurrencyLimit(2, metrics)
    with limit.acquire("alice"), limit.acquire("alice"):
        with pytest.raises(TooManyAtOnce) as raised, limit.acquire("alice"):
            pytest.fail("there is no third")
        assert raised.value.message == "2 requests at once are allowed"
        assert (raised.value.status, raised.value.retry_after_s) == (429, 1)
        with limit.acquire("bob"), limit.acquire("bob"):
            pass
    assert registry.get_sample_value("magenta_bento_refused_total", REASON) == 1


def test_a_place_is_free_however_it_was_left(metrics: Metrics) -> None:
    limit = ConcurrencyLimit(1, metrics)
    for error in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), limit.acquire("alice"):
            raise error
    with limit.acquire("alice"):
        pass


def test_who_was_refused_gives_no_place_back(metrics: Metrics) -> None:
    limit = ConcurrencyLimit(1, metrics)
    with limit.acquire("alice"):
        for _ in range(3):
            with pytest.raises(TooManyAtOnce), limit.acquire("alice"):
                pytest.fail("there is no second")


def test_zero_is_no_bound(metrics: Metrics) -> None:
    limit = ConcurrencyLimit(0, metrics)
    with ExitStack() as held:
        for _ in range(1000):
            held.enter_context(limit.acquire("alice"))


@pytest.mark.parametrize("most", [0, 1])
def test_who_has_left_takes_no_memory(metrics: Metrics, most: int) -> None:
    limit = ConcurrencyLimit(most, metrics)
    for number in range(1000):
        with limit.acquire(f"address {number}"):
            assert len(limit._open) == 1
    assert not limit._open
