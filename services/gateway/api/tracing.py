"""One server span per request that can cost something, a child of the client's own trace if it sends one."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.requests import HTTPConnection

from services.gateway.auth import Caller
from services.gateway.errors import ApiError
from shared.records import AnyTerminal, ResponseSpec
from shared.telemetry import extract, names

_tracer = trace.get_tracer("chatmesh.gateway")


@contextmanager
def server_span(connection: HTTPConnection, method: str, route: str) -> Iterator[Span]:
    """The current span while the block runs; an ApiError sets its HTTP status."""
    attributes = {names.HTTP_METHOD: method, names.HTTP_ROUTE: route}
    with _tracer.start_as_current_span(
        f"{method} {route}",
        context=extract(connection.headers),
        kind=SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
            span.set_attribute(names.HTTP_STATUS, 200)
        except ApiError as error:
            span.set_attribute(names.HTTP_STATUS, error.status)
            if error.status >= 500:
                span.set_attribute(names.ERROR_TYPE, error.code or str(error.status))
                span.set_status(StatusCode.ERROR, error.message)
            raise


def describe_request(span: Span, caller: Caller, spec: ResponseSpec) -> None:
    """What was asked, without any of its text."""
    span.set_attributes(
        {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: spec.model,
            names.REQUEST_TEMPERATURE: spec.sampling.temperature,
            names.REQUEST_TOP_P: spec.sampling.top_p,
            names.TENANT: caller.tenant,
        }
    )
    if spec.sampling.max_output_tokens is not None:
        span.set_attribute(names.REQUEST_MAX_TOKENS, spec.sampling.max_output_tokens)
    if spec.conversation is not None:
        span.set_attribute(names.CONVERSATION_ID, spec.conversation)


def describe_outcome(span: Span, response_id: str, terminal: AnyTerminal | None) -> None:
    """How it ended, as far as the client stayed to see it."""
    span.set_attribute(names.RESPONSE_ID, response_id)
    if terminal is not None:
        span.set_attributes(
            {
                names.OUTCOME: str(terminal.__struct_config__.tag),
                names.USAGE_INPUT_TOKENS: terminal.usage.input_tokens,
                names.USAGE_CACHED_TOKENS: terminal.usage.cached_tokens,
                names.USAGE_OUTPUT_TOKENS: terminal.usage.output_tokens,
            }
        )
