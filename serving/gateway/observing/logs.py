"""How the gateway logs: text for people, or one JSON object a line. No message of ours names a user or an item."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

from serving.gateway.observing import tracing

TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FACTS: Final = "facts"  # the key of `extra` under which a record has fields of its own


def configure(log_format: str, level: str) -> None:
    """Of the whole process. Libraries that chatter are kept quiet."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("feast").setLevel(logging.WARNING)  # it tells of each look into its registry
    logging.getLogger("grpc").setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """The message, then the facts as name=value."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, FACTS, {})
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        return f"{super().format(record)} {told}".rstrip()


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; trace_id within a trace; exception; then the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        line |= getattr(record, FACTS, {})
        return json.dumps(line, ensure_ascii=False, default=str)
