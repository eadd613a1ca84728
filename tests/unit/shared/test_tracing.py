"""Spans: what an error leaves on them, and which are exported at all."""

import re
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from shared.records import Cancelled, Completed, Failed, Incomplete, Message, Usage
from shared.records.events import Terminal
from shared.telemetry import extract, inject, working
from shared.telemetry.content import describe_content, input_messages, output_messages
from shared.telemetry.tracing import ServiceNamer
from shared.topics import Service

ROOT = Path(__file__).resolve().parents[3]
SECRET = "my cat is called Schubert"
PROMPT = [Message(role="user", parts=["Who", " are you?"])]


def tracer(seen: SpanExporter, *, captures: bool = False) -> Tracer:
    provider = TracerProvider(resource=Resource({"chatmesh.captures_content": captures}))
    provider.add_span_processor(ServiceNamer(Service.HISTORY, "history-7"))
    provider.add_span_processor(SimpleSpanProcessor(seen))
    return provider.get_tracer("test")


def ended(kind: type[Terminal], **more: str) -> Terminal:
    usage = Usage(input_tokens=1, output_tokens=1, cached_tokens=0)
    return kind(response_id="resp_1", epoch=1, tenant="acme", text="Nobody.", usage=usage, finished_ms=1, **more)


def test_an_error_leaves_its_kind_on_a_span_and_none_of_its_words() -> None:
    seen = InMemorySpanExporter()
    with pytest.raises(LookupError), working(tracer(seen), "work", kind=SpanKind.CONSUMER):
        raise LookupError(SECRET)
    (span,) = seen.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "LookupError"
    assert SECRET not in span.to_json()


def test_nobody_makes_spans_that_take_the_words_of_errors() -> None:
    """OpenTelemetry's own context manager records exceptions unless it is told not to; `working` never does."""
    sources = [path for folder in ("services", "shared", "deploy") for path in (ROOT / folder).rglob("*.py")]
    told = re.compile(r"\bstart_as_current_span\(|\brecord_exception\(|\bset_status\(")
    making = {path.relative_to(ROOT).as_posix() for path in sources if told.search(path.read_text(encoding="utf-8"))}
    assert making == {"services/gateway/api/tracing.py", "shared/telemetry/tracing.py"}


def test_a_span_names_its_service_for_uis_without_resources() -> None:
    seen = InMemorySpanExporter()
    tracer(seen).start_span("work").end()
    (span,) = seen.get_finished_spans()
    assert span.attributes == {"chatmesh.service": "history", "chatmesh.service.id": "history-7"}


@pytest.mark.parametrize(("sampler", "exported"), [("parentbased_traceidratio", 0), ("parentbased_always_on", 2)])
def test_who_begins_a_trace_decides_for_everybody_behind_a_record(
    monkeypatch: pytest.MonkeyPatch, sampler: str, exported: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    seen = InMemorySpanExporter()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with working(tracer(seen), "gateway") as span:
        headers = inject(span)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")  # another process, which would take all
    with working(tracer(seen), "moderation", context=extract(headers)):
        pass
    assert len(seen.get_finished_spans()) == exported
    assert int(headers["traceparent"][-2:], 16) & 1 == bool(exported)


@pytest.mark.parametrize(
    ("terminal", "reason"),
    [
        (ended(Completed), "stop"),
        (ended(Incomplete, reason="max_output_tokens"), "length"),
        (ended(Incomplete, reason="content_filter"), "content_filter"),
        (ended(Failed, code="server_error", message="No."), "error"),
        (ended(Cancelled), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_messages_have_the_form_of_the_conventions(terminal: Terminal, reason: str) -> None:
    assert input_messages(PROMPT) == (
        '[{"role":"user","parts":[{"type":"text","content":"Who"},{"type":"text","content":" are you?"}]}]'
    )
    assert output_messages(terminal) == (  # type: ignore[arg-type]
        f'[{{"role":"assistant","parts":[{{"type":"text","content":"Nobody."}}],"finish_reason":"{reason}"}}]'
    )


@pytest.mark.parametrize("captures", [False, True])
def test_content_is_put_on_spans_only_of_a_process_that_captures_it(captures: bool) -> None:
    seen = InMemorySpanExporter()
    with working(tracer(seen, captures=captures), "work") as span:
        describe_content(span, PROMPT, ended(Completed))  # type: ignore[arg-type]
    (exported,) = seen.get_finished_spans()
    assert ("Nobody." in exported.to_json()) is captures
