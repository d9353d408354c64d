"""Every Prometheus metric of the service, in one place.

Names end in their unit. The histogram of frame times has a bound at the 40 ms in which a frame
has to be made to keep up with playback, and several on both sides of it.

Invariant: no label holds a prompt, a key or anything else that a client sends. The label ``key``
is the name that the operator gave a key, and ``route`` is one of the server's own routes.
"""

from __future__ import annotations

import os

# With this variable, which BentoML sets, metrics are counted in memory-mapped files that several
# workers share. There is only one worker here. On a full disk a write to such a page ends the
# process (SIGBUS), and the counts of a worker that died would be added to those of the next one.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from prometheus_client import (  # after the variable, which it reads when it is imported
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

__all__ = ["CONTENT_TYPE_LATEST", "Metrics", "exposition"]

# fmt: off
STEP_BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.035, 0.04,
    0.045, 0.05, 0.06, 0.08, 0.1, 0.2, 0.5, 1.0, 2.0,
)
# fmt: on
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
RTF_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0)
OCCUPANCY_BUCKETS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class Metrics:
    """The metrics of one process.

    Args:
      registry: Where the metrics are registered. ``exposition`` reads the default one; a test
        can have one to itself.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"magenta_bento_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"magenta_bento_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
        ) -> Histogram:
            return Histogram(
                f"magenta_bento_{name}", text, labels, buckets=buckets, registry=registry
            )

        self.build_info = gauge(
            "build_info", "1, labelled with what runs.", ("version", "model", "device", "dtype")
        )
        self.load_seconds = gauge("load_seconds", "Duration of a phase of the start.", ("phase",))
        self.parameter_bytes = gauge("parameter_bytes", "Device bytes of the parameters.")
        self.device_memory_bytes = gauge(
            "device_memory_bytes", "Device memory, where the device reports it.", ("kind",)
        )
        self.ready = gauge("ready", "1 while the service takes requests.")

        self.slots = gauge("slots", "The most streams that can play at once.")
        self.active_streams = gauge("active_streams", "Streams that own a slot.")
        self.queue_length = gauge("queue_length", "Streams that wait for a slot.")
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "Time from admission to a slot.", WAIT_BUCKETS_S
        )
        self.step_frame_seconds = histogram(
            "step_frame_seconds", "Time of a step divided by its frames.", STEP_BUCKETS_S
        )
        self.batch_occupancy = histogram(
            "batch_occupancy_ratio", "Active rows of a step over its rows.", OCCUPANCY_BUCKETS
        )
        self.frames = counter("frames", "Frames of 40 ms that were made for streams.")
        self.step_failures = counter("step_failures", "Steps that raised.")

        self.streams = counter("streams", "Streams that ended, by how.", ("outcome",))
        self.refused = counter("refused", "Requests refused before a slot, by why.", ("reason",))
        self.first_frame_seconds = histogram(
            "first_frame_seconds", "Time from admission to the first audible frame.", WAIT_BUCKETS_S
        )
        self.real_time_factor = histogram(
            "real_time_factor", "Seconds of audio per second in a slot, per stream.", RTF_BUCKETS
        )

        self.underruns = counter(
            "underruns", "Times that music in real time has run dry at its listener."
        )
        self.requests = counter(
            "requests",
            "HTTP requests and WebSocket connections that were answered.",
            ("route", "method", "status", "key"),
        )
        self.request_seconds = histogram(
            "request_seconds",
            "From a request to the end of its answer.",
            WAIT_BUCKETS_S,
            ("route",),
        )
        self.open_requests = gauge(
            "open_requests", "Requests and connections that are being served.", ("route",)
        )
        self.audio_seconds = counter(
            "audio_seconds", "Seconds of audio that were made, by whose key.", ("key",)
        )
        self.limit_store_up = gauge(
            "limit_store_up", "1 while the store of the rate limits answers."
        )
        self.decode_seconds = histogram(
            "decode_seconds", "Time to decode an upload, without waiting.", WAIT_BUCKETS_S
        )
        self.decodes_waiting = gauge("decodes_waiting", "Uploads that wait to be decoded.")


def exposition() -> bytes:
    """The metrics of the default registry, in Prometheus' text format."""
    return generate_latest(REGISTRY)
