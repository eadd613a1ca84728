"""Questions of clients: answered once, dropped when late, refused where a backend that must answer does not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.moderation.judging import JudgingUnavailable
from services.moderation.queries import QueryHandler
from shared import patience
from shared.control import LogOutbox, handling, outbox
from shared.errors import BrokerUnavailableError
from shared.ids import now_ms
from shared.log import Appended, RawRecord
from shared.records import DeadLetter, Moderate, Moderated, ModerationResult, Record, Rejected, ReplyAddress
from shared.records.codec import encode_headers, encode_value
from shared.telemetry.logs import named_cause_of
from shared.topics import DEAD_LETTERS, MODERATION_QUERIES, REPLIES, Service, Topic

REPLY_TO = ReplyAddress(gateway="gateway_1", partition=2)
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Writer:
    """Keeps what is appended, with its partition and trace; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.appended: list[tuple[Topic, Any, int | None, Any]] = []
        self.failures = failures

    async def append(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Any = None
    ) -> Appended:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError("away")
        self.appended.append((topic, record, partition, trace))
        return Appended(partition or 0, len(self.appended), 0)

    @property
    def answers(self) -> list[Any]:
        return [record for topic, record, _, _ in self.appended if topic is REPLIES]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def writer() -> Writer:
    return Writer()


def asked(*texts: str, within_ms: int = 5_000) -> Moderate:
    return Moderate(
        correlation_id="query_1", reply_to=REPLY_TO, tenant="acme", texts=list(texts), deadline_ms=now_ms() + within_ms
    )


def raw(query: Moderate, trace: dict[str, str] | None = None) -> RawRecord:
    return RawRecord(3, 7, 0, query.subject, encode_value(query), tuple(encode_headers(query, "gateway_1", trace)))


async def judged(tenant: str, texts: Sequence[str]) -> list[ModerationResult]:
    """Tells whose policy it was, and how long each text is."""
    return [ModerationResult(policy=f"policy of {tenant}", scores={"hate": len(text) / 100}) for text in texts]


def handler(
    writer: Any, judge: Callable[[str, Sequence[str]], Awaitable[list[ModerationResult]]] = judged
) -> QueryHandler:
    return QueryHandler(LogOutbox(writer, Service.MODERATION), judge)


async def test_the_tenant_s_policy_judges_each_text_and_the_gateway_that_asked_is_told(writer: Writer) -> None:
    await handler(writer)(raw(asked("Hello", "Hi")))
    ((topic, answer, partition, _),) = writer.appended
    assert (topic, partition) == (REPLIES, REPLY_TO.partition)
    assert isinstance(answer, Moderated)
    assert (answer.gateway, answer.correlation_id) == ("gateway_1", "query_1")
    assert [(result.policy, result.scores["hate"]) for result in answer.results] == [
        ("policy of acme", 0.05),
        ("policy of acme", 0.02),
    ]


async def test_a_backend_that_must_answer_and_does_not_is_503(writer: Writer) -> None:
    async def unavailable(*_: Any) -> list[ModerationResult]:
        raise JudgingUnavailable("encoder")

    await handler(writer, unavailable)(raw(asked("Hello")))
    (answer,) = writer.answers
    assert isinstance(answer, Rejected)
    assert (answer.status, answer.code, answer.error_type) == (503, "moderation_unavailable", "server_error")
    assert "encoder" in answer.message and len(writer.appended) == 1


async def test_what_comes_after_its_deadline_is_not_judged(writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    async def judge(tenant: str, texts: Sequence[str]) -> list[ModerationResult]:
        heard.append(texts)
        return await judged(tenant, texts)

    await handler(writer, judge)(raw(asked("Hello", within_ms=-1)))
    assert (heard, writer.appended) == ([], [])
    assert "dropped at its deadline: 3@7" in caplog.text and "Hello" not in caplog.text


async def test_what_is_not_judged_by_its_deadline_is_given_up(writer: Writer) -> None:
    ended = asyncio.Event()

    async def slow(*_: Any) -> list[ModerationResult]:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return []

    async with asyncio.timeout(5):
        await handler(writer, slow)(raw(asked("Hello", within_ms=30)))
    assert ended.is_set() and writer.appended == []


@pytest.mark.parametrize("error", [ValueError("a bug"), TimeoutError("one of the judge's own")])
async def test_a_bug_is_told_and_put_aside(writer: Writer, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: Any) -> list[ModerationResult]:
        raise error

    await handler(writer, broken)(raw(asked("Hello")))
    letters = [record for _, record, _, _ in writer.appended if isinstance(record, DeadLetter)]
    assert [(letter.origin_partition, letter.origin_offset) for letter in letters] == [(3, 7)]
    assert letters[0].error == named_cause_of(error)
    (answer,) = writer.answers
    assert isinstance(answer, Rejected) and (answer.status, answer.code) == (500, "server_error")
    assert str(error) not in answer.message
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)


async def test_what_cannot_be_read_is_put_aside(writer: Writer) -> None:
    await handler(writer)(RawRecord(3, 7, 0, "k", b'{"type":"moderate"}', ()))
    ((topic, letter, _, _),) = writer.appended
    assert topic is DEAD_LETTERS[MODERATION_QUERIES.name] and isinstance(letter, DeadLetter)


async def test_an_answer_waits_for_the_broker_until_the_deadline() -> None:
    patient = Writer(failures=3)
    await handler(patient)(raw(asked("Hello")))
    assert len(patient.answers) == 1
    in_vain = Writer(failures=10**6)
    async with asyncio.timeout(5):
        await handler(in_vain)(raw(asked("Hello", within_ms=50)))
    assert in_vain.appended == []


async def test_it_goes_on_in_the_asking_gateway_s_trace(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    for module in (handling, outbox):
        monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    await handler(writer)(raw(asked("Hello"), TRACE))
    found: dict[str, ReadableSpan] = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"process moderation.queries", "send gateway.replies"}
    for span in found.values():
        assert f"{span.context.trace_id:032x}" == TRACE["traceparent"].split("-")[1]
    assert found["process moderation.queries"].attributes is not None
    assert found["process moderation.queries"].attributes["chatmesh.outcome"] == "moderated"
    assert "Hello" not in str([dict(span.attributes or {}) for span in found.values()])
    sent_in = writer.appended[0][3]["traceparent"].split("-")
    assert sent_in[1] == TRACE["traceparent"].split("-")[1]
