"""Spans of a process: exported over OTLP/HTTP by the standard `OTEL_*` variables, and never with what users wrote.

What may stand in a span is decided here: a span that fails says by which kind of error (`error.type`), never in its
words, because an error may quote what it could not handle. Prompts and answers need CHATMESH_TRACE_CONTENT
(`shared/telemetry/content.py`).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer

from shared.errors import SettingsError
from shared.release import VERSION
from shared.settings import MeshSettings
from shared.telemetry import names
from shared.telemetry.exporting import export_from
from shared.telemetry.otlp import exports
from shared.topics import Service


def start_telemetry(settings: MeshSettings, service: Service, service_id: str) -> Callable[[], None]:
    """Install the tracer provider; returns what flushes it at shutdown. Raises SettingsError.

    Spans are exported only where `OTEL_EXPORTER_OTLP_ENDPOINT` or `…_TRACES_ENDPOINT` is set; sampling follows
    `OTEL_TRACES_SAMPLER`. Without an endpoint nothing is recorded, and contexts are handed on all the same.
    """
    if not exports(os.environ):
        return lambda: None
    resource: dict[str, str | bool] = {
        SERVICE_NAME: service.value,
        SERVICE_NAMESPACE: "chatmesh",
        SERVICE_INSTANCE_ID: service_id,
        SERVICE_VERSION: VERSION,
        names.CAPTURES_CONTENT: settings.trace_content,
    }
    try:
        provider = TracerProvider(resource=Resource.create(resource))
    except ValueError as error:  # it names the variable: one of the limits of spans
        raise SettingsError(f"wrong settings:\n  {error}") from error
    provider.add_span_processor(ServiceNamer(service, service_id))
    stop = export_from(provider)
    trace.set_tracer_provider(provider)
    return stop


class ServiceNamer(SpanProcessor):
    """Names the service on each span: UIs that show no resources (Phoenix) could not tell who did what."""

    def __init__(self, service: Service, service_id: str) -> None:
        self._attributes = {names.SERVICE: service.value, names.SERVICE_ID: service_id}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called by the SDK."""
        span.set_attributes(self._attributes)


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
