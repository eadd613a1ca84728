"""W3C trace context in and out of record headers."""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def inject(span: Span | None = None) -> dict[str, str]:
    """Header fields that carry `span` (default: the current one); empty when nothing is being traced."""
    carrier: dict[str, str] = {}
    context = trace.set_span_in_context(span) if span is not None else None
    _propagator.inject(carrier, context=context)
    return carrier


def extract(headers: Mapping[str, str]) -> Context:
    """The context that a record carries: pass it as `context=` when a span starts."""
    return _propagator.extract(dict(headers))
