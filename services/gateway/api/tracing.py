"""One server span per request that can cost something, a child of the client's own trace if it sends one."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from services.gateway.auth import Caller
from services.gateway.errors import ApiError
from services.gateway.fanout import Stream
from shared.ids import is_id
from shared.records import ResponseSpec
from shared.telemetry import extract, fail, lead_to, names, working
from shared.telemetry.content import describe_content

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
                fail(span, error.code or str(error.status))
            raise
        except WebSocketDisconnect:
            raise  # a client may leave
        except Exception as error:
            fail(span, type(error).__name__)
            raise


@contextmanager
def resuming(stream: Stream, starting_after: int) -> Iterator[None]:
    """While a reader who came back reads: told in the response's own trace; the request's trace leads there."""
    request = trace.get_current_span()
    request.set_attribute(names.RESPONSE_ID, stream.id.text)
    lead_to(stream.origin)
    if not stream.origin:
        yield
        return
    asked_in = request.get_span_context()
    attributes: dict[str, str | int] = {
        names.RESPONSE_ID: stream.id.text,
        names.STARTING_AFTER: starting_after,
        names.ORIGIN_TRACE: trace.format_trace_id(asked_in.trace_id),
    }
    context = extract(stream.origin)
    with working(_tracer, names.RESUME, context=context, attributes=attributes, links=[Link(asked_in)]):
        yield


def note_eviction(lag_limit_s: float) -> None:
    """The current span's client reads too far behind and is left."""
    trace.get_current_span().add_event(names.EVICTED, {names.LAG_LIMIT_S: lag_limit_s})


def describe_request(span: Span, caller: Caller, spec: ResponseSpec) -> None:
    """What was asked, without any of its text. Its model is told once it was accepted: until then a client may have
    written anything there."""
    span.set_attributes(
        {
            names.OPERATION_NAME: names.CHAT,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_TEMPERATURE: spec.sampling.temperature,
            names.REQUEST_TOP_P: spec.sampling.top_p,
            names.TENANT: caller.tenant,
        }
    )
    if spec.sampling.max_output_tokens is not None:
        span.set_attribute(names.REQUEST_MAX_TOKENS, spec.sampling.max_output_tokens)
    if spec.conversation is not None and is_id("conv", spec.conversation):
        span.set_attribute(names.CONVERSATION_ID, spec.conversation)


def describe_outcome(span: Span, stream: Stream) -> None:
    """How it ended, as far as the client stayed to see it. What it used goes by names of our own: the generation's span
    has it by OpenTelemetry's, and UIs add those up over a trace."""
    span.set_attribute(names.RESPONSE_ID, stream.id.text)
    accepted, terminal = stream.fold.accepted, stream.fold.terminal
    if accepted is None:
        return
    span.set_attribute(names.REQUEST_MODEL, accepted.spec.model)
    if terminal is None:
        return
    span.set_attributes(
        {
            names.OUTCOME: str(terminal.__struct_config__.tag),
            names.TOLD_INPUT_TOKENS: terminal.usage.input_tokens,
            names.TOLD_CACHED_TOKENS: terminal.usage.cached_tokens,
            names.TOLD_OUTPUT_TOKENS: terminal.usage.output_tokens,
        }
    )
    describe_content(span, accepted.spec.input, terminal)
