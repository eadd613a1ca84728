"""Spans of a process: exported over OTLP/HTTP by the standard `OTEL_*` variables, and never with what users wrote.

What may stand in a span is decided here: a span that fails says by which kind of error (`error.type`), never in its
words, because an error may quote what it could not handle. Prompts and answers need CHATMESH_TRACE_CONTENT
(`shared/telemetry/content.py`).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer

from shared.release import VERSION
from shared.settings import MeshSettings
from shared.telemetry import names
from shared.topics import Service

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_DELAY_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"
_DELAY_MS = 1000
"""How long a finished span waits for company, where the user says nothing. OpenTelemetry's own 5 s are too long here:
a process that is killed takes along what it has not exported, and that is just what one wants to see then."""
_LAST_WORDS_S = 2.0


def start_telemetry(settings: MeshSettings, service: Service, service_id: str) -> Callable[[], None]:
    """Install the tracer provider; returns what flushes it at shutdown.

    Spans are exported only where `OTEL_EXPORTER_OTLP_ENDPOINT` or `…_TRACES_ENDPOINT` is set; sampling follows
    `OTEL_TRACES_SAMPLER`. Without an endpoint nothing is recorded, and contexts are handed on all the same.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return lambda: None
    resource: dict[str, str | bool] = {
        SERVICE_NAME: service.value,
        SERVICE_NAMESPACE: "chatmesh",
        SERVICE_INSTANCE_ID: service_id,
        SERVICE_VERSION: VERSION,
        names.CAPTURES_CONTENT: settings.trace_content,
    }
    provider = TracerProvider(resource=Resource.create(resource))
    exporter = QuietExporter(OTLPSpanExporter())
    delay_ms = None if os.environ.get(_DELAY_VARIABLE) else _DELAY_MS
    provider.add_span_processor(ServiceNamer(service, service_id))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    trace.set_tracer_provider(provider)

    def stop() -> None:
        with exporter.last_words():
            provider.shutdown()

    return stop


class ServiceNamer(SpanProcessor):
    """Names the service on each span: UIs that show no resources (Phoenix) could not tell who did what."""

    def __init__(self, service: Service, service_id: str) -> None:
        self._attributes = {names.SERVICE: service.value, names.SERVICE_ID: service_id}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called by the SDK."""
        span.set_attributes(self._attributes)


class QuietExporter(SpanExporter):
    """Says once that spans are not taken, and once that they are again; what was not taken is dropped.

    The exporter behind it tells of every attempt; its loggers are silenced (`shared/telemetry/setup.py`).
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._refused = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Blocks, with retries, in the SDK's own thread."""
        result = self._inner.export(spans)
        refused = result is not SpanExportResult.SUCCESS
        if refused and not self._refused:
            log.warning("traces are not taken by %s: they are dropped until they are", _endpoint())
        elif self._refused and not refused:
            log.info("traces are taken again")
        self._refused = refused
        return result

    @contextmanager
    def last_words(self) -> Iterator[None]:
        """Within the block, what nobody takes within two seconds is given up: it must not hold up a shutdown."""
        giving_up = threading.Timer(_LAST_WORDS_S, self._inner.shutdown)
        giving_up.daemon = True
        giving_up.start()
        try:
            yield
        finally:
            giving_up.cancel()

    def shutdown(self) -> None:
        """Called by the SDK."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Called by the SDK; nothing is buffered here."""
        return self._inner.force_flush(timeout_millis)


def _endpoint() -> str:
    """Where spans go, by scheme, host and port: the rest of the URL may hold a password."""
    url = next(filter(None, map(os.environ.get, reversed(ENDPOINTS))), "")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # it is no URL, and OpenTelemetry has said so
        host = None
    if host is None:
        return "the endpoint"
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


@contextmanager
def working(
    tracer: Tracer,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
    attributes: Mapping[str, str | int] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[trace.Span]:
    """The current span while the block runs. An exception fails the span by its type, and goes on."""
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            fail(span, type(error).__name__)
            raise


def fail(span: trace.Span, error_type: str) -> None:
    """The span's work failed. `error_type`: a class of errors or a code, never an error's own words."""
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR))
