"""What moderation makes of texts that a client asks about: a question over the log, to whichever replica takes it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from services.gateway.auth import Caller
from services.gateway.catalogue import check_moderation_model
from services.gateway.errors import server_error, too_many, unavailable
from services.gateway.ledger import Ledger, Repeatable
from services.gateway.once import admitted
from services.gateway.questions import ask
from services.gateway.replies import Replies, expected
from shared.heartbeats import Cluster
from shared.ids import new_id, now_ms
from shared.log import LogWriter
from shared.records import Moderate, Moderated, ModerationResult
from shared.topics import MODERATION_QUERIES, Service


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to one request, by the name `modr_…` that its idempotency key stands for: one result per text."""

    id: str
    results: Sequence[ModerationResult]


@dataclass
class Moderations:
    """Asks for judgements, at most `max_waiting` at once; `timeout_s` is also their deadline on the other side, which
    drops what is late."""

    writer: LogWriter
    replies: Replies
    ledger: Ledger
    cluster: Cluster
    timeout_s: float
    max_waiting: int
    waiting: int = 0

    async def judge(
        self, caller: Caller, texts: Sequence[str], model: str | None, repeatable: Repeatable | None
    ) -> Judged:
        """Raises ApiError: 404 for a model that is not the server's, 429, 422 for a key that stands for another
        request, 503 where no moderation service, or a model that its policy cannot do without, answers in time."""
        if not self.cluster.alive(Service.MODERATION, ready=True):
            raise unavailable("No moderation service is ready. Try again.")
        if model is not None:
            check_moderation_model(self.cluster, model, "model")
        with self._place():
            attempt = await admitted(self.ledger, caller, (new_id("modr"),), repeatable)
            (name,) = attempt.names
            return Judged(name, await attempt.make(self._asked(caller, texts)))

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places of those that wait. Raises ApiError 429 when none is free."""
        if self.waiting >= self.max_waiting:
            raise too_many(f"{self.waiting:,} questions to moderation wait here already. Please retry later.")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def _asked(self, caller: Caller, texts: Sequence[str]) -> Sequence[ModerationResult]:
        query = Moderate(
            correlation_id=new_id("query"),
            reply_to=self.replies.address,
            tenant=caller.tenant,
            texts=list(texts),
            deadline_ms=now_ms() + int(self.timeout_s * 1000),
        )
        silence = f"Moderation did not answer within {self.timeout_s:g} s. Try again."
        answer = await ask(
            self.writer, self.replies, MODERATION_QUERIES, query, timeout_s=self.timeout_s, silence=silence
        )
        results = expected(Moderated, answer).results
        if len(results) != len(texts):
            raise server_error(f"Moderation judged {len(results)} of {len(texts)} texts.")
        return results
