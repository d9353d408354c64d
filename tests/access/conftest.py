"""What tests of access share: metrics of their own, and the package's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from magenta_bento.metrics import Metrics


@pytest.fixture(name="registry")
def _registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(name="metrics")
def _metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


@pytest.fixture(name="log")
def _log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What the package writes, whether or not its logger has been configured before."""
    logger = logging.getLogger("magenta_bento")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "magenta_bento"):
        yield caplog
    logger.removeHandler(caplog.handler)
