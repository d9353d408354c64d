"""Where this package's log lines go, and in which form.

As text, the package's lines are written beside BentoML's. As JSON, every line of the process is
one object, BentoML's lines too, with the id of the request and the ids of its trace.

Invariant: configuring twice changes nothing, and no line holds a key. Only the access line holds
prompts, and only with ``LOG_PROMPTS``.
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
BENTOML_LOGGERS = ("", "bentoml", "uvicorn.error", "circus")  # those that BentoML adds handlers to

request_id: ContextVar[str] = ContextVar("request_id", default="")


class _AddIds(logging.Filter):
    """Adds the ids of the request and of its trace to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.pop("request_id", None)  # set by BentoML, to a number that is not ours
        if current := request_id.get():
            record.request_id = current
        context = trace.get_current_span().get_span_context()
        # Not ``is_recording``: the access line is written after its span has ended.
        if context.trace_flags.sampled:
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        return True


class _DropExpectedErrors(logging.Filter):
    """Drops error records of uvicorn for what is no fault of the server.

    When a WebSocket is refused with a status, uvicorn 0.54 writes that the handshake was not
    completed. When a stream is cut because the client's budget is spent, it writes a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        expected = isinstance(error, ServiceError) and error.status < INTERNAL_SERVER_ERROR
        return not expected and "without completing handshake" not in record.getMessage()


_ADD_IDS = _AddIds()
_DROP_EXPECTED_ERRORS = _DropExpectedErrors()


class _JsonFormatter(JsonFormatter):
    """One JSON object a line: the time, the level, the logger, the message and the ids."""

    def __init__(self) -> None:
        super().__init__(
            JSON_FIELDS,
            rename_fields={"levelname": "level", "name": "logger"},
            # Left out: what each record has, and what BentoML's own filter adds to it.
            reserved_attrs=[
                *logging.makeLogRecord({}).__dict__,
                *("levelname_bracketed", "component", "trace_msg", "service_name", "message"),
                *("asctime", "taskName", "color_message"),
            ],
        )

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        return {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **log_data}


def configure(level: str, form: str = "text") -> None:
    """Sets up logging for this process.

    Args:
      level: The least severe level of the package's records that are written.
      form: "text", or "json" for the records of the whole process.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        stderr = logging.StreamHandler()
        stderr.addFilter(_ADD_IDS)
        stderr.setFormatter(logging.Formatter(TEXT_FORMAT, "%Y-%m-%dT%H:%M:%S%z"))
        logger.addHandler(stderr)
    logging.getLogger("uvicorn.error").addFilter(_DROP_EXPECTED_ERRORS)
    # At other levels uvicorn writes queries, which may hold keys and prompts.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(True)
        for name in (PACKAGE, *BENTOML_LOGGERS):
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(_JsonFormatter())
                handler.addFilter(_ADD_IDS)
