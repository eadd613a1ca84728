"""Everything that an owner sends, and what a failed append means."""

import asyncio
import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, TypeVar

from services.moderation.meter import ModerationMeter
from services.moderation.owner.gate import BEFORE_ANY_TEXT, Gate
from services.moderation.owner.response import Owned
from shared.errors import AppendError
from shared.futures import error_of
from shared.ids import parse_response_id
from shared.log import Appended, LogWriter, RawRecord, failing_late, put_aside, put_work_aside
from shared.records import (
    Deleted,
    Events,
    Job,
    Journal,
    Record,
    Rejected,
    ReleaseConversation,
    Requested,
    Stop,
    Verdict,
)
from shared.topics import EVENTS, HISTORY_QUERIES, JOBS, JOURNAL, REPLIES, VERDICTS, Service, Topic

log = logging.getLogger(__name__)
T = TypeVar("T")


class Outbox:
    """Appends without waiting; order per partition is the writer's promise.

    After a failed append nobody knows what is public in that partition: it is marked `broken`, and the owner
    takes it over anew, with a higher epoch, before it publishes there again.
    """

    def __init__(self, writer: LogWriter, meter: ModerationMeter | None = None) -> None:
        self._writer = writer
        self._meter = meter or ModerationMeter()
        self.broken: set[int] = set()
        # One callback a partition, made once: there is an append for every delta.
        self._check_of = cache(lambda partition: partial(self._check, partition))

    def publish(self, owned: Owned, event: Events, trace: Mapping[str, str] | None = None) -> asyncio.Future[Appended]:
        """Append to the public log."""
        return self._send(owned.partition, EVENTS, event, trace=trace)

    def gate(self, owned: Owned, judged_to: int = BEFORE_ANY_TEXT) -> Gate:
        """The way of the response's events into the public log, each behind the verdict on it."""
        return Gate(partial(self.publish, owned), lambda: owned.partition not in self.broken, judged_to)

    def erase(self, partition: int, deleted: Deleted) -> asyncio.Future[Appended]:
        """Say in public that a response is no more."""
        return self._send(partition, EVENTS, deleted)

    def append(self, owned: Owned, record: Journal, trace: Mapping[str, str] | None = None) -> asyncio.Future[Appended]:
        """Append to the journal."""
        return self._send(owned.partition, JOURNAL, record, trace=trace)

    def job(self, owned: Owned, job: Job, mailbox: int, trace: Mapping[str, str]) -> asyncio.Future[Appended]:
        """Send a job to a worker's mailbox."""
        return self._send(owned.partition, JOBS, job, partition=mailbox, trace=trace)

    def stop(self, partition: int, response_id: str, claim: str, mailbox: int, reason: str) -> None:
        """Tell the worker of a superseded or ended claim to free its slot."""
        self._send(partition, JOBS, Stop(response_id=response_id, claim=claim, reason=reason), partition=mailbox)

    def reject(
        self,
        owned: Owned,
        *,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        error_type: str = "invalid_request_error",
    ) -> list[asyncio.Future[Appended]]:
        """Tell the asking gateway, if there is one, that the request became nothing, and free what was held for it."""
        self._meter.refused(code)
        told = self.release(owned.requested)
        address = owned.requested.reply_to
        if address is None:
            return told
        reply = Rejected(
            gateway=address.gateway,
            correlation_id=owned.id,
            status=status,
            code=code,
            message=message,
            param=param,
            error_type=error_type,
        )
        return [*told, self._send(owned.partition, REPLIES, reply, partition=address.partition)]

    def release(self, requested: Requested) -> list[asyncio.Future[Appended]]:
        """Have history unlock the conversation, if there is one, of a request that became nothing: the public log will
        never tell. As often as one likes: history gives back only what this very response holds."""
        spec, response_id = requested.spec, requested.response_id
        if spec.conversation is None:
            return []
        release = ReleaseConversation(
            conversation_id=spec.conversation, response_id=response_id, tenant=requested.tenant
        )
        return [self._send(parse_response_id(response_id).partition, HISTORY_QUERIES, release)]

    def verdict(self, owned: Owned, verdict: Verdict) -> asyncio.Future[Appended]:
        """Leave an audit trail."""
        self._meter.judged(verdict.stage, verdict.action)
        return self._send(owned.partition, VERDICTS, verdict)

    def put_aside(self, record: RawRecord, error: Exception) -> asyncio.Future[bool]:
        """A journal record that cannot be handled. Done once it needs no second try."""
        letter = put_aside(self._writer, Service.MODERATION, JOURNAL, record, error)
        return self._watched(record.partition, asyncio.ensure_future(letter))

    def put_job_aside(self, owned: Owned, job: Job, error: str) -> asyncio.Future[bool]:
        """A job that no worker could finish. Done once it needs no second try."""
        letter = put_work_aside(self._writer, Service.MODERATION, JOBS, job, error, owned.fold.attempt)
        return self._watched(owned.partition, asyncio.ensure_future(letter))

    def _send(
        self,
        owner_partition: int,
        topic: Topic,
        record: Record,
        *,
        partition: int | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> asyncio.Future[Appended]:
        append = failing_late(self._writer.enqueue, topic, record, partition=partition, trace=trace)
        return self._watched(owner_partition, append)

    def _watched(self, owner_partition: int, append: asyncio.Future[T]) -> asyncio.Future[T]:
        append.add_done_callback(self._check_of(owner_partition))
        return append

    def _check(self, owner_partition: int, done: asyncio.Future[Any]) -> None:
        error = error_of(done)
        if error is None:
            return
        if not isinstance(error, AppendError):
            raise error
        if owner_partition not in self.broken:
            log.error("partition %d will be taken over anew: %s", owner_partition, error)
        self.broken.add(owner_partition)
