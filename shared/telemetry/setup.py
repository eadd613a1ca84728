"""Logging of a process: one line per record."""

import json
import logging
import sys
from datetime import UTC, datetime

from opentelemetry import trace

from shared.settings import MeshSettings

_TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_NOISY = ("ContinuousBatchingLogger", "faststream", "httpx", "uvicorn.access")
# They report each failed attempt although they retry by themselves. What fails for good reaches us: of aiokafka as an
# exception, of OpenTelemetry in `QuietExporter`.
_RETRYING = ("aiokafka", "kafka", "opentelemetry.exporter", "opentelemetry.sdk._shared_internal")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the trace id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            entry["trace_id"] = f"{span.trace_id:032x}"
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def setup_logging(settings: MeshSettings) -> None:
    """Log to stderr. Libraries speak from WARNING on, so that a quiet mesh has quiet logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else logging.Formatter(_TEXT_FORMAT))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _RETRYING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
