"""Questions of clients, `moderation.queries`: what the policy makes of their texts, answered to the gateway that asked.

Any replica answers any question; they share a group, apart from that of the journal, whose partitions they own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from opentelemetry.trace import Span

from services.moderation.judging import JudgingUnavailable
from services.moderation.owner.entry import UNAVAILABLE
from services.moderation.settings import ModerationSettings
from shared.control import ControlPlane, LogOutbox, Outbox, Outgoing, RecordHandler, place
from shared.errors import LogError
from shared.ids import now_ms
from shared.log import LogWriter, RawRecord
from shared.records import Moderate, Moderated, ModerationResult, Rejected
from shared.telemetry import names
from shared.telemetry.metrics import Metrics
from shared.topics import MODERATION_QUERIES, REPLIES, Service

log = logging.getLogger(__name__)

_BROKEN = "The server had an error while judging your input."

JudgeTexts = Callable[[str, Sequence[str]], Awaitable[Sequence[ModerationResult]]]
"""What the tenant's policy makes of each text, in order. Raises JudgingUnavailable."""


class ModerationQueries(ControlPlane):
    """The service's part in answering: up to `queries_at_once` questions at a time, the rest waits in the log."""

    def __init__(
        self, settings: ModerationSettings, writer: LogWriter, judge: JudgeTexts, *, metrics: Metrics | None = None
    ) -> None:
        handler = (MODERATION_QUERIES, QueryHandler(LogOutbox(writer, Service.MODERATION), judge))
        super().__init__(
            settings, Service.MODERATION, [handler], max_in_flight=settings.queries_at_once, metrics=metrics
        )


class QueryHandler(RecordHandler):
    """Answers questions. One that is late gets no answer: who asked has given up."""

    def __init__(self, outbox: Outbox, judge: JudgeTexts) -> None:
        super().__init__(MODERATION_QUERIES, outbox)
        self._judge = judge

    async def handle(self, raw: RawRecord, record: Moderate, span: Span) -> None:
        """See `RecordHandler.handle`."""
        answer = await self._answer(raw, record)
        span.set_attribute(names.TENANT, record.tenant)
        span.set_attribute(names.OUTCOME, "late" if answer is None else str(answer.__struct_config__.tag))
        if answer is not None:
            await self._reply(record, answer)

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
            await self.bury(raw, error)
            return _rejected(query, 500, "server_error", _BROKEN)
        return Moderated(gateway=query.reply_to.gateway, correlation_id=query.correlation_id, results=results)

    async def _reply(self, query: Moderate, answer: Moderated | Rejected) -> None:
        try:
            await self.send(Outgoing(REPLIES, answer, query.reply_to.partition), timeout_s=_left_s(query))
        except LogError as error:
            # Who asked has given up by now, or can only be told so by its own deadline.
            log.warning("an answer to %s is lost: %s", query.reply_to.gateway, error)


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
