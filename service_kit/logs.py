"""Logs: one JSON object a line on standard error, with the ids of the present trace."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from service_kit import telemetry
from service_kit.settings import ServiceSettings

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_WORDS = ("token", "secret", "password", "authorization", "api_key")


class JsonFormatter(logging.Formatter):
    """A log record as a JSON object; fields given as ``extra`` stand beside the fixed ones."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, without a newline."""
        trace_id, span_id = telemetry.trace_ids()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_id:
            line |= {"trace_id": trace_id, "span_id": span_id}
        for key, value in vars(record).items():
            if key not in _OWN_FIELDS and key not in line:
                line[key] = "[hidden]" if _is_secret(key) else value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def configure_logging(settings: ServiceSettings) -> None:
    """Send every log, warning and uncaught exception of this process to standard error as JSON."""
    install(settings.service, settings.log_level)


def install(service: str, level: str) -> None:
    """The same as :func:`configure_logging`, for a process that has no settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger(__name__).critical(
            "uncaught exception", exc_info=(kind, error, traceback)
        )


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else ""
        logging.getLogger(__name__).error(
            "uncaught exception in a thread",
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
            extra={"thread_name": name},
        )
