"""W3C trace context in and out of record headers."""

import contextvars
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.telemetry import names

_propagator = TraceContextTextMapPropagator()


def inject(span: Span | None = None) -> dict[str, str]:
    """Header fields that carry `span` (default: the current one); empty when nothing is being traced."""
    carrier: dict[str, str] = {}
    context = trace.set_span_in_context(span) if span is not None else None
    _propagator.inject(carrier, context=context)
    return carrier


def lead_to(carrier: Mapping[str, str], span: Span | None = None) -> None:
    """Link `span` (default: the current one) to the span that the carrier names; nothing if it names none.

    The trace's id stands in an attribute too, for UIs that do not show links.
    """
    other = trace.get_current_span(extract(carrier)).get_span_context()
    if other.is_valid:
        linking = trace.get_current_span() if span is None else span
        linking.add_link(other)
        linking.set_attribute(names.ORIGIN_TRACE, trace.format_trace_id(other.trace_id))


def apart() -> contextvars.Context:
    """For `create_task(…, context=apart())`: work for many, which happens to begin with one of them, is in no trace."""
    return contextvars.Context()


def extract(headers: Mapping[str, str]) -> Context:
    """The context that a record carries: pass it as `context=` when a span starts."""
    return _propagator.extract(dict(headers))
