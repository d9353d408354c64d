"""What a server process holds: settings, metrics, and the model once it is loaded.

    LOADING ──> READY ──> DRAINING ──> FAILED     (any phase but the first may be left out)

Loading takes long and runs on its own thread, so that health checks are answered meanwhile.

Invariant: requests get the engine and the prompter, by ``loaded``, exactly while the phase is
READY. Both outlive that phase: while the server drains, running streams need them to end, and
``/health`` counts the streams that are left.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from pydantic import BaseModel, Field

from magenta_bento import __version__
from magenta_bento.access.access_control import AccessControl
from magenta_bento.config import Settings
from magenta_bento.engine.engine import Engine
from magenta_bento.errors import MagentaBentoError, NotReady
from magenta_bento.metrics import Metrics, exposition
from magenta_bento.prompting import Prompter
from magenta_bento.style import StyleEncoder
from magenta_bento.weights.catalog import DEMO, ModelFiles

log = logging.getLogger("magenta_bento")

LOADING_RETRY_AFTER_S = 5
DEMO_NOTE = "a tiny demo model, not Magenta's music"


class ServerPhase(StrEnum):
    """Where a server is in its life; the value is the ``status`` that ``/health`` shows."""

    LOADING = "loading"
    READY = "healthy"
    DRAINING = "draining"
    FAILED = "failed"


_NEXT = {
    ServerPhase.LOADING: {ServerPhase.READY, ServerPhase.DRAINING, ServerPhase.FAILED},
    ServerPhase.READY: {ServerPhase.DRAINING, ServerPhase.FAILED},
    ServerPhase.DRAINING: {ServerPhase.FAILED},
}


class OnDeath(Protocol):
    """A function that is called when the server can't go on."""

    def __call__(self, error: BaseException, *, while_loading: bool) -> None: ...


@dataclass(frozen=True)
class LoadedModel:
    """What loading made.

    Attributes:
      engine: Plays the streams.
      prompter: Makes their styles.
      device: Where the model runs, for people: "cpu" or "NVIDIA L4".
      dtype: What its language model computes in: "float32" or "bfloat16".
    """

    engine: Engine
    prompter: Prompter
    device: str
    dtype: str


class StreamCounts(BaseModel, extra="forbid"):
    """How many streams play, can play at once, and wait."""

    active: int = Field(ge=0)
    capacity: int = Field(ge=0)
    waiting: int = Field(ge=0)


class LimitStore(BaseModel, extra="forbid"):
    """Whether the shared store of the limits answers."""

    store: Literal["up", "down"]


class Health(BaseModel, extra="forbid", protected_namespaces=()):
    """The state of the server; fields whose default is None may be absent."""

    status: ServerPhase
    models_loaded: bool
    model: str
    device: str | None
    version: str
    note: str | None = Field(None, description="Of the demo model.")
    limits: LimitStore | None = None
    dtype: str | None = None
    streams: StreamCounts | None = None


class Runtime:
    """The settings, the metrics, the access control and the loaded model of one process.

    Args:
      settings: How to load and serve.
      files: The files of the model to serve.
      metrics: Where the runtime and all that it makes count.
      on_death: Called once, on another thread, when loading fails or the engine dies; the
        process should exit.

    Raises:
      ConfigError: There are to be API keys, and they can't be read.
    """

    def __init__(
        self,
        settings: Settings,
        files: ModelFiles,
        metrics: Metrics,
        on_death: OnDeath,
    ) -> None:
        self.settings = settings
        self.files = files
        self.metrics = metrics
        self.access = AccessControl.from_settings(settings, metrics)
        self.phase = ServerPhase.LOADING
        self._lock = threading.Lock()  # guards the phase: loading and a shutdown may race
        # None until the model is loaded, and never None again: health and shut_down need what
        # was loaded in the phases after READY too.
        self._loaded: LoadedModel | None = None
        self._device_memory: Callable[[], Mapping[str, int]] = dict
        self._on_death = on_death

    @property
    def is_demo(self) -> bool:
        """Whether the model is the demo and not one of Magenta's."""
        return self.files.name == DEMO

    def start(self) -> None:
        """Begins to load; returns at once."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    @property
    def loaded(self) -> LoadedModel:
        """What requests work with, while they are taken.

        Raises:
          NotReady: The model is loading, has failed, or the server shuts down.
        """
        if self.phase is ServerPhase.READY and self._loaded is not None:
            return self._loaded
        raise NotReady(
            f"the server takes no requests: its model is {self.phase}",
            retry_after_s=LOADING_RETRY_AFTER_S,
        )

    async def ready(self) -> bool:
        """Whether requests are served."""
        return self.phase is ServerPhase.READY and not await self.access.refuses_all()

    async def health(self) -> Health:
        """What /health answers."""
        store = self.access.store
        store_state = None
        if store.shared:
            store_state = LimitStore(store="up" if await store.answers() else "down")
        loaded = self._loaded
        return Health(
            status=self.phase,
            models_loaded=loaded is not None,
            model=self.files.name,
            device=loaded.device if loaded else None,
            version=__version__,
            note=DEMO_NOTE if self.is_demo else None,
            limits=store_state,
            dtype=loaded.dtype if loaded else None,
            streams=StreamCounts(
                active=loaded.engine.active,
                capacity=loaded.engine.capacity,
                waiting=loaded.engine.waiting,
            )
            if loaded
            else None,
        )

    def exposition(self) -> bytes:
        """The body of /metrics."""
        for kind, size_bytes in self._device_memory().items():
            self.metrics.device_memory_bytes.labels(kind).set(size_bytes)
        return exposition()

    def shut_down(self) -> None:
        """Lets running streams finish within the grace period, then ends the rest. Blocks."""
        self._enter(ServerPhase.DRAINING)
        if self._loaded is not None:
            if not self._loaded.engine.drain(self.settings.shutdown_grace_s):
                log.warning("the grace period is over: the streams left are cut")
            self._loaded.engine.stop()
            self._loaded.prompter.close()

    def _load(self) -> None:
        try:
            from magenta_bento.model import loader  # here, because jax takes seconds

            model, report = loader.load_model(self.settings, self.files)
            with report.phase("styles"):
                styles = StyleEncoder(self.files.musiccoca_dir)
                styles.warm_up()
            engine = Engine(
                model,
                queue_bound=self.settings.max_queue,
                metrics=self.metrics,
                on_death=self._die,
            )
            engine.start()
        except Exception as error:
            if not isinstance(error, MagentaBentoError):
                log.critical("loading failed", exc_info=True)
            self._die(error)
            return
        self.metrics.build_info.labels(__version__, report.model, report.device, report.dtype).set(
            1
        )
        for name, seconds in report.phases_s.items():
            self.metrics.load_seconds.labels(name).set(seconds)
        self.metrics.parameter_bytes.set(model.parameter_bytes)
        self._device_memory = loader.device_memory
        prompter = Prompter(styles, self.settings.max_upload_seconds, self.metrics)
        self._loaded = LoadedModel(engine, prompter, report.device, report.dtype)
        if not self._enter(ServerPhase.READY):
            engine.stop()  # a shutdown that came during loading found no engine to stop
            prompter.close()
            return
        log.info("ready: up to %d streams at once", engine.capacity)
        what = f"{self.files.name} ({DEMO_NOTE})" if self.is_demo else self.files.name
        log.info("serving %s at %s", what, self.settings.public_url)

    def _die(self, error: BaseException) -> None:
        log.critical("the server can't go on: %s", error)
        while_loading = self._loaded is None
        self._enter(ServerPhase.FAILED)
        self._on_death(error, while_loading=while_loading)

    def _enter(self, phase: ServerPhase) -> bool:
        """Goes to a phase; False if the present phase does not lead to it."""
        with self._lock:
            if phase not in _NEXT.get(self.phase, ()):
                return False
            self.phase = phase
            self.metrics.ready.set(1 if phase is ServerPhase.READY else 0)
            return True
