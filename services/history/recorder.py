"""`responses.events` into the store: what the client was told, no more and no less (DESIGN 8.5).

The rules of which record counts are the store's (`Store.record`), because the state that they need, the highest
epoch and what has already counted, must outlive this process. The recorder only brings the records in order, again
if need be, and commits behind the store's acknowledgement.

Only deltas are left out: by the rules of the fold they raise no epoch.

What became of conversations is told between the store's acknowledgement and the commit: so it is told, and after a
fault twice rather than not at all.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.history.errors import StoreRefusedError
from services.history.orphans import Orphans
from services.history.reading import recordable
from services.history.retry import Patience
from services.history.stores.port import Recordable, Recorded, Store
from services.history.telling import of_responses
from services.history.told import ResponseLog
from shared.control import Outbox, Outgoing
from shared.errors import RecordError
from shared.log import RawRecord
from shared.records import TERMINALS, Deleted
from shared.records.codec import Envelope
from shared.telemetry import extract, names
from shared.telemetry.logs import cause_of
from shared.topics import EVENTS

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

MAX_ATTEMPTS = 3


class Offsets(Protocol):
    """Commits; `shared.log.GroupConsumer` is the real one."""

    async def commit(self, partition: int, next_offset: int) -> bool:
        """False if the partition is no longer ours. Raises LogError."""


class Recorder:
    """Brings batches of the events log into the store."""

    def __init__(self, store: Store, events: ResponseLog, outbox: Outbox) -> None:
        self._kept_in = store
        self._orphans = Orphans(store, events)
        self._outbox = outbox
        self._storing = Patience("recorder")
        self._telling = Patience("recorder's news")
        self._burying = Patience("recorder's dead-letter queue")
        self._committing = Patience("recorder's commit")
        self.recorded = 0

    async def take(self, batch: Sequence[RawRecord], offsets: Offsets) -> None:
        """Store a polled batch, then commit it. Raises StoreError when the store is unusable."""
        kept = [(raw, envelope) for raw in batch if (envelope := await self._decode(raw)) is not None]
        if kept:
            await self._store_all(kept)
        for partition, next_offset in _ends(batch).items():
            await self._commit(offsets, partition, next_offset)

    async def _decode(self, raw: RawRecord) -> Envelope[Recordable] | None:
        try:
            return recordable(raw)
        except RecordError as error:
            await self._bury(raw, error, attempts=1)
            return None

    async def _store_all(self, kept: Sequence[tuple[RawRecord, Envelope[Recordable]]]) -> None:
        try:
            await self._store([envelope for _, envelope in kept])
        except StoreRefusedError:
            # One record spoils the transaction: find it by storing each for itself.
            for raw, envelope in kept:
                await self._store_one(raw, envelope)

    async def _store_one(self, raw: RawRecord, envelope: Envelope[Recordable]) -> None:
        for _ in range(MAX_ATTEMPTS):
            try:
                await self._store([envelope])
                return
            except StoreRefusedError as error:
                failure = error
        await self._bury(raw, failure, MAX_ATTEMPTS)

    async def _store(self, envelopes: Sequence[Envelope[Recordable]]) -> None:
        started_ns = time.time_ns()
        records = [envelope.record for envelope in envelopes]
        recorded = await self._storing.until_available(lambda: self._kept_in.record(records))
        adopted = await self._storing.until_available(lambda: self._orphans.adopt(records, recorded))
        # The last end of a response is the one that counted: a lower epoch's comes before it.
        last = {e.record.response_id: e for e in envelopes if isinstance(e.record, TERMINALS)}
        for response_id in recorded.ended | adopted.ended:
            _span(last[response_id], started_ns)
        self.recorded += len(recorded.ended | adopted.ended)
        await self._tell(recorded, envelopes)
        await self._tell(adopted, envelopes)

    async def _tell(self, recorded: Recorded, envelopes: Sequence[Envelope[Recordable]]) -> None:
        """Tell others, side by side, each in the trace of what it follows from."""
        causes = {e.record.response_id: e for e in envelopes if isinstance(e.record, (*TERMINALS, Deleted))}
        tenants = {e.record.response_id: e.record.tenant for e in envelopes if isinstance(e.record, TERMINALS)}
        news = of_responses(recorded, tenants)
        await asyncio.gather(*(self._send(outgoing, causes[about]) for about, outgoing in news))

    async def _send(self, outgoing: Outgoing, cause: Envelope[Recordable]) -> None:
        with trace.use_span(trace.get_current_span(extract(cause.trace))):
            await self._telling.until_available(lambda: self._outbox.send(outgoing))

    async def _commit(self, offsets: Offsets, partition: int, next_offset: int) -> None:
        await self._committing.until_available(lambda: offsets.commit(partition, next_offset))

    async def _bury(self, raw: RawRecord, error: Exception, attempts: int) -> None:
        log.error("%s %d@%d cannot be recorded: %s", EVENTS.name, raw.partition, raw.offset, cause_of(error))
        await self._burying.until_available(lambda: self._outbox.bury(EVENTS, raw, error, attempts))


def _ends(batch: Sequence[RawRecord]) -> dict[int, int]:
    """Partition → the offset behind its last record."""
    return {raw.partition: raw.offset + 1 for raw in batch}


def _span(terminal: Envelope[Recordable], started_ns: int) -> None:
    """One span per stored response, in the trace of its terminal."""
    tracer.start_span(
        names.RECORD,
        context=extract(terminal.trace),
        kind=SpanKind.CONSUMER,
        start_time=started_ns,
        attributes={
            **names.messaging(EVENTS, "process", terminal.partition, terminal.offset),
            names.RESPONSE_ID: terminal.record.response_id,
            names.OUTCOME: str(terminal.record.__struct_config__.tag),
        },
    ).end()
