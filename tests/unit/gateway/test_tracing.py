"""What a response's span says."""

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from services.gateway.api.tracing import describe_outcome, describe_request
from services.gateway.auth import Caller
from shared.records import Completed, ResponseSpec, Usage


def test_a_span_tells_what_a_response_cost_and_what_the_cache_saved() -> None:
    usage = Usage(input_tokens=20, output_tokens=3, cached_tokens=16)
    ended = Completed(response_id="resp_1", tenant="acme", text="Yes", usage=usage, finished_ms=1)
    span = TracerProvider().get_tracer("test").start_span("chat")
    describe_outcome(span, "resp_1", ended)
    assert isinstance(span, ReadableSpan)
    assert span.attributes == {
        "gen_ai.response.id": "resp_1",
        "chatmesh.outcome": "completed",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.output_tokens": 3,
    }


def test_a_span_names_the_conversation_where_there_is_one() -> None:
    named = []
    for conversation in ("conv_1", None):
        span = TracerProvider().get_tracer("test").start_span("chat")
        describe_request(span, Caller("acme"), ResponseSpec(model="m", input=[], conversation=conversation))
        assert isinstance(span, ReadableSpan) and span.attributes is not None
        named.append(span.attributes.get("gen_ai.conversation.id"))
    assert named == ["conv_1", None]
