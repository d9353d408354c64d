"""Where this package's log lines go, and in which form.

As text they stand beside BentoML's; as JSON every line of the process is one object, BentoML's
own too, with the id of the request and the ids of its trace.

Invariant: configuring twice changes nothing, and no line holds a key; prompts only stand in the
access line, and only if the operator asked for it.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from http.client import INTERNAL_SERVER_ERROR

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from magenta_bento.errors import ServiceError

TEXT_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"
JSON_FIELDS = ["levelname", "name", "message"]
PACKAGE = "magenta_bento"
# bentoml: the loggers that it gives handlers.
OTHERS = ("", "bentoml", "uvicorn.error", "circus")

request_id: ContextVar[str] = ContextVar("request_id", default="")


class _WithIds(logging.Filter):
    """Puts the ids of the request and of its trace on each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        # bentoml: its own filter puts a number of its own on each record, under this name.
        record.__dict__.pop("request_id", None)
        if current := request_id.get():
            record.request_id = current
        context = trace.get_current_span().get_span_context()
        if context.trace_flags.sampled:  # also once the span is over, as in the access line
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        return True


class _NoFalseAlarm(logging.Filter):
    """Drops what uvicorn takes for a fault and is none.

    uvicorn 0.54 says of a WebSocket that was refused with a status that it had no answer, and
    shows a traceback for a stream that is broken off because the client's budget is spent.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        expected = isinstance(error, ServiceError) and error.status < INTERNAL_SERVER_ERROR
        return not expected and "without completing handshake" not in record.getMessage()


_WITH_IDS = _WithIds()
_NO_FALSE_ALARM = _NoFalseAlarm()


class _Json(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            JSON_FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            # bentoml: what its own filter puts on a record.
            reserved_attrs=[
                *logging.makeLogRecord({}).__dict__,
                *("levelname_bracketed", "component", "trace_msg", "service_name", "message"),
                *("asctime", "taskName", "color_message"),
            ],
        )

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        return {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **log_data}


def configure(level: str, form: str = "text") -> None:
    """Writes the package's lines of at least this level, as ``text`` or as ``json``."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.addFilter(_WITH_IDS)
        handler.setFormatter(logging.Formatter(TEXT_FORMAT, "%Y-%m-%dT%H:%M:%S%z"))
        logger.addHandler(handler)
    logging.getLogger("uvicorn.error").addFilter(_NO_FALSE_ALARM)
    # At other levels it would write queries, which may hold keys and prompts.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(True)
        for name in (PACKAGE, *OTHERS):
            for written in logging.getLogger(name).handlers:
                written.setFormatter(_Json())
                written.addFilter(_WITH_IDS)
