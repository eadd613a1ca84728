"""The mailbox: every record of it is obeyed, claimed or put aside, then committed, whatever it is (DESIGN 8.6).

A job's offset is committed once its claim is acknowledged; from then on only the owner's watch starts a new attempt
(DESIGN 5.3). The mailbox is never paused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Protocol

from services.inference.worker import Worker
from shared.errors import AppendError, LogError, RecordError
from shared.log import Appended, LogWriter, RawRecord, decode_of_response, note_lost, put_aside
from shared.patience import Patience
from shared.records import Job, Stop
from shared.telemetry.logs import cause_of
from shared.topics import JOBS, Service

log = logging.getLogger(__name__)

LETTER_PATIENCE_S = 10.0
"""For a dead letter; the mail behind it waits as long, and its owners send anew after their claim timeout."""


class Commits(Protocol):
    """What is asked of the group's consumer."""

    async def commit(self, partition: int, next_offset: int) -> bool: ...


class Mailbox:
    """Hands jobs and stops to the worker."""

    def __init__(self, worker: Worker, writer: LogWriter, commits: Commits) -> None:
        self._worker = worker
        self._writer = writer
        self._commits = commits
        self._burying = Patience(f"dead-letter queue of {JOBS.name}")

    async def take(self, batch: Sequence[RawRecord]) -> None:
        """Handle every record, wait until what that takes stands in the log, then commit."""
        await asyncio.gather(*[done for record in batch if (done := self._handle(record)) is not None])
        for partition, offset in {record.partition: record.offset for record in batch}.items():
            try:
                await self._commits.commit(partition, offset + 1)
            except LogError as error:
                # The mail comes again: jobs that are held are recognised, ended ones are stopped by their owner.
                log.warning("%s", error)

    def _handle(self, record: RawRecord) -> Awaitable[None] | None:
        """What to wait for before the record counts as handled."""
        try:
            envelope, _ = decode_of_response(JOBS, record)
            if isinstance(envelope.record, Stop):
                self._worker.obey(envelope.record)
                return None
            claimed = self._worker.claim(envelope)
            return self._claimed(envelope.record, claimed) if claimed is not None else None
        except RecordError as error:
            return self._put_aside(record, error)
        except Exception as error:
            # A bug must neither end the worker nor come again with the same record.
            log.error("mail %d/%d cannot be handled", record.partition, record.offset, exc_info=error)
            return self._put_aside(record, error)

    async def _claimed(self, job: Job, claimed: asyncio.Future[Appended]) -> None:
        try:
            await claimed
        except AppendError as error:
            # Not retried: the owner's watch sends the job anew after its claim timeout, perhaps to somebody luckier.
            log.warning("%s: the claim of attempt %d is lost: %s", job.response_id, job.attempt, error)

    async def _put_aside(self, record: RawRecord, error: Exception) -> None:
        """Into the dead letters. What they do not take stays readable in the mailbox, and the log says where."""
        log.error("mail %d/%d goes to the dead letters: %s", record.partition, record.offset, cause_of(error))
        try:
            await self._burying.until_available(
                lambda: put_aside(self._writer, Service.INFERENCE, JOBS, record, error), timeout_s=LETTER_PATIENCE_S
            )
        except AppendError as refused:
            note_lost(self._writer, JOBS, record, refused)
