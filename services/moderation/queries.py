"""Questions of clients, `moderation.queries`: what the policy makes of their texts, answered to the gateway that asked.

Any replica answers any question; they share a group, apart from that of the journal, whose partitions they own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.moderation.judging import JudgingUnavailable
from services.moderation.owner.entry import UNAVAILABLE
from services.moderation.settings import ModerationSettings
from shared.control import ControlPlane, place
from shared.errors import LogError, RecordError
from shared.ids import now_ms
from shared.log import LogWriter, RawRecord, decode, put_aside
from shared.patience import Patience
from shared.records import Moderate, Moderated, ModerationResult, Rejected
from shared.telemetry import extract, inject, names, working
from shared.telemetry.logs import cause_of
from shared.telemetry.metrics import Metrics
from shared.topics import MODERATION_QUERIES, REPLIES, Service

log = logging.getLogger(__name__)
tracer = trace.get_tracer("chatmesh.moderation")

_BROKEN = "The server had an error while judging your input."

JudgeTexts = Callable[[str, Sequence[str]], Awaitable[Sequence[ModerationResult]]]
"""What the tenant's policy makes of each text, in order. Raises JudgingUnavailable."""


class ModerationQueries(ControlPlane):
    """The service's part in answering: up to `queries_at_once` questions at a time, the rest waits in the log."""

    def __init__(
        self, settings: ModerationSettings, writer: LogWriter, judge: JudgeTexts, *, metrics: Metrics | None = None
    ) -> None:
        handler = (MODERATION_QUERIES, QueryHandler(writer, judge))
        super().__init__(
            settings, Service.MODERATION, [handler], max_in_flight=settings.queries_at_once, metrics=metrics
        )


class QueryHandler:
    """Takes one question from bytes to its acknowledged answer. One that is late gets none: who asked has given up."""

    def __init__(self, writer: LogWriter, judge: JudgeTexts) -> None:
        self._writer = writer
        self._judge = judge
        self._sending = Patience("answers of moderation")
        self._burying = Patience(f"dead-letter queue of {MODERATION_QUERIES.name}")

    async def __call__(self, raw: RawRecord) -> None:
        """Returns only when the question needs no second try."""
        try:
            envelope = decode(MODERATION_QUERIES, raw)
        except RecordError as error:
            await self._bury(raw, error)
            return
        with working(
            tracer,
            names.process(MODERATION_QUERIES),
            context=extract(envelope.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(MODERATION_QUERIES, "process", raw.partition, raw.offset),
        ) as span:
            query = envelope.record
            answer = await self._answer(raw, query)
            span.set_attribute(names.TENANT, query.tenant)
            span.set_attribute(names.OUTCOME, "late" if answer is None else str(answer.__struct_config__.tag))
            if answer is not None:
                await self._send(query, answer)

    async def _answer(self, raw: RawRecord, query: Moderate) -> Moderated | Rejected | None:
        """None once it is too late for one. A question that fails by a bug blocks none behind it: it is put aside, at
        once, for what is judged again is judged alike."""
        left_s = _left_s(query)
        if not left_s:
            _note_late(raw, query)
            return None
        deadline = asyncio.timeout(left_s)
        try:
            async with deadline:
                results = list(await self._judge(query.tenant, query.texts))
        except JudgingUnavailable as error:
            message = f"The input could not be moderated: {error.backend} does not answer. Please retry later."
            return _rejected(query, 503, UNAVAILABLE, message)
        except Exception as error:
            if deadline.expired():
                _note_late(raw, query)
                return None
            log.error("%s at %s", MODERATION_QUERIES.name, place(raw), exc_info=error)
            await self._bury(raw, error)
            return _rejected(query, 500, "server_error", _BROKEN)
        return Moderated(gateway=query.reply_to.gateway, correlation_id=query.correlation_id, results=results)

    async def _send(self, query: Moderate, answer: Moderated | Rejected) -> None:
        with working(tracer, names.send(REPLIES), kind=SpanKind.PRODUCER) as span:

            async def send() -> None:
                partition = query.reply_to.partition
                appended = await self._writer.append(REPLIES, answer, partition=partition, trace=inject(span))
                span.set_attributes(names.messaging(REPLIES, "send", appended.partition, appended.offset))

            try:
                await self._sending.until_available(send, timeout_s=_left_s(query))
            except LogError as error:
                # Who asked has given up by now, or can only be told so by its own deadline.
                log.warning("an answer to %s is lost: %s", query.reply_to.gateway, error)

    async def _bury(self, raw: RawRecord, error: Exception) -> None:
        log.error("%s at %s cannot be handled: %s", MODERATION_QUERIES.name, place(raw), cause_of(error))
        await self._burying.until_available(
            lambda: put_aside(self._writer, Service.MODERATION, MODERATION_QUERIES, raw, error)
        )


def _note_late(raw: RawRecord, query: Moderate) -> None:
    log.warning("a question of %s is dropped at its deadline: %s", query.tenant, place(raw))


def _left_s(query: Moderate) -> float:
    return max(0.0, (query.deadline_ms - now_ms()) / 1000)


def _rejected(query: Moderate, status: int, code: str, message: str) -> Rejected:
    return Rejected(
        gateway=query.reply_to.gateway,
        correlation_id=query.correlation_id,
        status=status,
        code=code,
        message=message,
        error_type="server_error",
    )
