"""Whether something is done in a trace."""

from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span


def traced() -> AbstractContextManager[Span]:
    """What is done within the block is, as what is done for a client's request."""
    return TracerProvider().get_tracer("test").start_as_current_span("request")


def is_traced() -> bool:
    """Whether what is done here and now is."""
    return trace.get_current_span().get_span_context().is_valid
