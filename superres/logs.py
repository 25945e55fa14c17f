"""Logging: one line per event, for humans or as JSON, with the ID of its request."""

import logging
import re
from contextvars import ContextVar
from typing import Any

# Passed on to threads that compute for a request.
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")

# Characters that would start a new line, or move a terminal's cursor.
CONTROL_PATTERN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to records that belong to a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all records through."""
        request_id = current_request_id.get()
        if request_id:
            record.request_id = request_id
        return True


class HumanFormatter(logging.Formatter):
    """One line per record, whatever clients send; a traceback follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """Return the line."""
        line = super().formatMessage(record)
        if hasattr(record, "request_id"):
            line += f" id={record.request_id}"
        return CONTROL_PATTERN.sub(lambda match: repr(match[0])[1:-1], line)


def make_log_config(log_format: str) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes.

    Parameters
    ----------
    log_format : `human` or `json`
    """
    formatters: dict[str, Any] = {
        "human": {
            "()": HumanFormatter,
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        },
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": ["timestamp", "levelname", "name", "message"],
            "style": ",",
            "timestamp": True,
            "rename_fields": {"levelname": "level", "name": "logger", "exc_info": "traceback"},
        },
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": RequestIdFilter}},
        "formatters": formatters,
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": log_format,
                "filters": ["request_id"],
            }
        },
        "root": {"level": "INFO", "handlers": ["stderr"]},
        # gunicorn's own messages go to the same handlers.
        "loggers": {"gunicorn.error": {"level": "INFO", "propagate": True}},
    }
