"""Tracing and logging of a process: OTLP by the standard `OTEL_*` variables, one line per log record."""

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared.settings import MeshSettings
from shared.topics import Service

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_NOISY = ("ContinuousBatchingLogger", "faststream", "httpx", "uvicorn.access")
# aiokafka reports each failed attempt although it retries by itself; what fails for good reaches us as an exception.
_RETRYING = ("aiokafka", "kafka")


def start_telemetry(service: Service, service_id: str) -> Callable[[], None]:
    """Install the tracer provider; returns what flushes it at shutdown.

    Spans are exported (OTLP over HTTP) only where `OTEL_EXPORTER_OTLP_ENDPOINT` or `…_TRACES_ENDPOINT` is set;
    sampling follows `OTEL_TRACES_SAMPLER`. Without an endpoint nothing is recorded.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return lambda: None
    provider = TracerProvider(
        resource=Resource.create(
            {SERVICE_NAME: service.value, SERVICE_NAMESPACE: "chatmesh", SERVICE_INSTANCE_ID: service_id}
        )
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


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
