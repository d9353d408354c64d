"""How many requests one client has open at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from magenta_bento.access.places import Places
from magenta_bento.errors import TooManyAtOnce
from magenta_bento.metrics import Metrics

REASON = {"reason": "too_many_at_once"}


def test_a_client_has_so_many_places(metrics: Metrics, registry: CollectorRegistry) -> None:
    places = Places(2, metrics)
    with places.taken("alice"), places.taken("alice"):
        with pytest.raises(TooManyAtOnce) as raised, places.taken("alice"):
            pytest.fail("there is no third")
        assert raised.value.message == "2 requests at once are allowed"
        assert (raised.value.status, raised.value.retry_after_s) == (429, 1)
        with places.taken("bob"), places.taken("bob"):
            pass
    assert registry.get_sample_value("magenta_bento_refused_total", REASON) == 1


def test_a_place_is_free_however_it_was_left(metrics: Metrics) -> None:
    places = Places(1, metrics)
    for error in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), places.taken("alice"):
            raise error
    with places.taken("alice"):
        pass


def test_who_was_refused_gives_no_place_back(metrics: Metrics) -> None:
    places = Places(1, metrics)
    with places.taken("alice"):
        for _ in range(3):
            with pytest.raises(TooManyAtOnce), places.taken("alice"):
                pytest.fail("there is no second")


def test_zero_is_no_bound(metrics: Metrics) -> None:
    places = Places(0, metrics)
    with ExitStack() as held:
        for _ in range(1000):
            held.enter_context(places.taken("alice"))


@pytest.mark.parametrize("most", [0, 1])
def test_who_has_left_takes_no_memory(metrics: Metrics, most: int) -> None:
    places = Places(most, metrics)
    for number in range(1000):
        with places.taken(f"address {number}"):
            assert len(places._open) == 1
    assert not places._open
