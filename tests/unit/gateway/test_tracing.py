"""What a response's spans say, and what leads from one trace to another."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
import websockets
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span

from services.gateway.api import tracing
from services.gateway.api.tracing import describe_outcome, describe_request
from services.gateway.auth import Caller
from services.gateway.fanout import Stream
from shared.ids import new_id, new_response_id
from shared.records import Accepted, AnyTerminal, Completed, Message, Requested, ResponseSpec, Usage
from shared.telemetry import inject, lead_to
from tests.unit.gateway.harness import MODEL, Mesh, accept, gateway, log_of

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}
USAGE = Usage(input_tokens=20, output_tokens=3, cached_tokens=16)


def new_span() -> Span:
    return TracerProvider().get_tracer("test").start_span("chat")


def attributes_of(span: Span) -> dict[str, object]:
    assert isinstance(span, ReadableSpan)
    return dict(span.attributes or {})


def ended_stream() -> tuple[Stream, AnyTerminal]:
    stream = Stream(new_response_id(0))
    spec = ResponseSpec(model="m", input=[Message(role="user", parts=["What is it?"])])
    accepted = Accepted(
        response_id=stream.id.text,
        epoch=1,
        tenant="acme",
        spec=spec,
        policy="p",
        created_ms=0,
        deadline_ms=1,
        input_tokens=20,
    )
    ended = Completed(response_id=stream.id.text, epoch=1, tenant="acme", text="Yes", usage=USAGE, finished_ms=1)
    for record in (accepted, ended):
        stream.fold.apply(record)
    return stream, ended


def test_a_span_tells_what_a_response_cost_and_what_the_cache_saved() -> None:
    stream, _ = ended_stream()
    span = new_span()
    describe_outcome(span, stream)
    assert attributes_of(span) == {
        "gen_ai.response.id": stream.id.text,
        "gen_ai.request.model": "m",
        "chatmesh.outcome": "completed",
        "chatmesh.usage.input_tokens": 20,
        "chatmesh.usage.cached_tokens": 16,
        "chatmesh.usage.output_tokens": 3,
    }


def test_a_span_names_the_conversation_where_there_is_one() -> None:
    named = []
    for conversation in ((conv := new_id("conv")), None):
        span = new_span()
        describe_request(span, Caller("acme"), ResponseSpec(model="m", input=[], conversation=conversation))
        named.append(attributes_of(span).get("gen_ai.conversation.id"))
    assert named == [conv, None]


def test_what_nobody_has_checked_yet_is_on_no_span() -> None:
    """Whatever a client writes there is none of a trace's business."""
    span, text = new_span(), "my cat is called Schubert"
    describe_request(span, Caller("acme"), ResponseSpec(model=text, input=[], conversation=text))
    assert text not in str(attributes_of(span))


def test_a_link_stands_in_an_attribute_too() -> None:
    origin, span = new_span(), new_span()
    lead_to(inject(origin), span)
    assert isinstance(span, ReadableSpan)
    assert [link.context.span_id for link in span.links] == [origin.get_span_context().span_id]
    assert attributes_of(span) == {"chatmesh.origin.trace_id": f"{origin.get_span_context().trace_id:032x}"}


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "nonsense"}])
def test_what_was_not_traced_leads_nowhere(carrier: Mapping[str, str]) -> None:
    span = new_span()
    lead_to(carrier, span)
    assert isinstance(span, ReadableSpan)
    assert not span.links
    assert attributes_of(span) == {}


def ws_url(mesh: Mesh) -> str:
    return mesh.url.replace("http", "ws") + "/responses"


def flood(_: Mesh, request: Requested) -> list[Any]:
    """20 MB in 200 deltas, more than any socket holds."""
    log, piece = log_of(request), "x" * 100_000
    return [accept(request), *(log.delta(n * len(piece), piece) for n in range(200))]


async def test_the_trace_of_a_client_that_lags_says_that_it_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(seen))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    async with gateway(Mesh(flood), lag_limit_s=0.3) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        async with asyncio.timeout(10):
            while not seen.get_finished_spans():
                await asyncio.sleep(0.02)
        with pytest.raises(websockets.ConnectionClosed):
            while True:  # who reads on hears at once that it was left; else the gateway waits for its farewell
                await ws.recv()
    (span,) = seen.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("chatmesh.evicted", {"chatmesh.lag_limit_s": 0.3})
    ]
