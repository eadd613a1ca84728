"""`attached` and `detached`: who still reads a foreground response, as the journal knows it."""

import asyncio
import logging
from itertools import count

from shared.errors import AppendError
from shared.futures import error_of
from shared.ids import ResponseId
from shared.log import Appended, LogWriter
from shared.records import Attached, Cancel, Detached, JournalRecord
from shared.topics import JOURNAL

log = logging.getLogger(__name__)


class JournalPresence:
    """Appends without waiting: the writer keeps the order per response."""

    def __init__(self, writer: LogWriter, gateway_id: str) -> None:
        self._writer = writer
        self._gateway_id = gateway_id
        self._numbers = count(1)

    def attached(self, response_id: ResponseId) -> None:
        """Its first reader here arrived."""
        self._append(Attached(response_id=response_id.text, gateway=self._gateway_id, number=next(self._numbers)))

    def detached(self, response_id: ResponseId) -> None:
        """Its last reader here left: the owner's grace begins, unless somebody reads elsewhere."""
        self._append(Detached(response_id=response_id.text, gateway=self._gateway_id, number=next(self._numbers)))

    def cancel(self, response_id: ResponseId) -> None:
        """Nobody wants it any more."""
        self._append(Cancel(response_id=response_id.text, reason="abandoned"))

    def _append(self, record: JournalRecord) -> None:
        try:
            appending = self._writer.enqueue(JOURNAL, record)
        except AppendError as error:
            _report(record, error)
            return
        appending.add_done_callback(lambda done: _settled(record, done))


def _settled(record: JournalRecord, done: "asyncio.Future[Appended]") -> None:
    error = error_of(done)
    if error is not None:
        _report(record, error)


def _report(record: JournalRecord, error: BaseException) -> None:
    # The owner's deadline ends the response all the same, only later.
    log.error("%s of %s is lost: %s", type(record).__name__.lower(), record.response_id, error)
