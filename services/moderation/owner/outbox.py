"""Everything that an owner sends, and what a failed append means."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from services.moderation.owner.response import Owned
from shared.errors import AppendError
from shared.log import Appended, LogWriter, RawRecord, dead_letter, dead_work
from shared.records import Events, Job, Journal, Record, Rejected, Stop, Verdict
from shared.topics import EVENTS, JOBS, JOURNAL, REPLIES, VERDICTS, Service, Topic

log = logging.getLogger(__name__)


class Outbox:
    """Appends without waiting; order per partition is the writer's promise.

    After a failed append nobody knows what is public in that partition: it is marked `broken`, and the owner
    takes it over anew, with a higher epoch, before it publishes there again.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.broken: set[int] = set()
        self._checks = _Checks(self._check)

    def publish(self, owned: Owned, event: Events, trace: Mapping[str, str] | None = None) -> asyncio.Future[Appended]:
        """Append to the public log."""
        return self._send(owned.partition, EVENTS, event, trace=trace)

    def append(self, owned: Owned, record: Journal) -> asyncio.Future[Appended]:
        """Append to the journal."""
        return self._send(owned.partition, JOURNAL, record)

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
    ) -> "asyncio.Future[Any]":
        """Tell the asking gateway, if there is one, that the request became nothing."""
        address = owned.requested.reply_to
        if address is None:
            nobody_asks = asyncio.get_running_loop().create_future()
            nobody_asks.set_result(None)
            return nobody_asks
        reply = Rejected(
            gateway=address.gateway,
            correlation_id=owned.id,
            status=status,
            code=code,
            message=message,
            param=param,
            error_type=error_type,
        )
        return self._send(owned.partition, REPLIES, reply, partition=address.partition)

    def verdict(self, owned: Owned, verdict: Verdict) -> None:
        """Leave an audit trail."""
        self._send(owned.partition, VERDICTS, verdict)

    def put_aside(self, record: RawRecord, error: Exception) -> asyncio.Future[Appended]:
        """A journal record that cannot be handled."""
        try:
            letter = dead_letter(self._writer, Service.MODERATION, JOURNAL, record, error)
        except AppendError as full:
            letter = _failed(full)
        return self._watched(record.partition, letter)

    def put_job_aside(self, owned: Owned, job: Job, error: str) -> asyncio.Future[Appended]:
        """A job that no worker could finish."""
        attempts = owned.fold.attempt
        try:
            letter = dead_work(self._writer, Service.MODERATION, JOBS, job, error, attempts)
        except AppendError as full:
            letter = _failed(full)
        return self._watched(owned.partition, letter)

    def _send(
        self,
        owner_partition: int,
        topic: Topic,
        record: Record,
        *,
        partition: int | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> asyncio.Future[Appended]:
        try:
            future = self._writer.enqueue(topic, record, partition=partition, trace=trace)
        except AppendError as error:
            future = _failed(error)
        return self._watched(owner_partition, future)

    def _watched(self, owner_partition: int, append: asyncio.Future[Appended]) -> asyncio.Future[Appended]:
        append.add_done_callback(self._checks[owner_partition])
        return append

    def _check(self, owner_partition: int, done: asyncio.Future[Appended]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is None:
            return
        if not isinstance(error, AppendError):
            raise error
        if owner_partition not in self.broken:
            log.error("partition %d will be taken over anew: %s", owner_partition, error)
        self.broken.add(owner_partition)


class _Checks(dict[int, Callable[[asyncio.Future[Appended]], None]]):
    """Partition → what looks at its appends, made once: there is one for every delta."""

    def __init__(self, check: Callable[[int, asyncio.Future[Appended]], None]) -> None:
        self._check = check

    def __missing__(self, partition: int) -> Callable[[asyncio.Future[Appended]], None]:
        self[partition] = partial(self._check, partition)
        return self[partition]


def _failed(error: AppendError) -> asyncio.Future[Appended]:
    """What the writer refuses at once, because it is full, has failed like any other append."""
    future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
