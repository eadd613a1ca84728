"""A record of the control plane, from its bytes to its acknowledged answers: retried, and never skipped."""

import asyncio
import logging
from collections.abc import Collection

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.history.errors import StoreError, StoreRefusedError
from services.history.handlers import HANDLERS, given_up, patience_s, too_late
from services.history.ports import Outbox, Outgoing, Ports
from services.history.retry import TRANSIENT, Patience
from shared.control import place
from shared.errors import RecordError, RecordRefusedError
from shared.log import RawRecord, decode
from shared.records import Record
from shared.records.codec import Envelope
from shared.telemetry import extract, names, working
from shared.telemetry.logs import cause_of
from shared.topics import REPLIES, Topic

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

MAX_ATTEMPTS = 3


class RecordHandler:
    """Takes one record of `topic` from bytes to its acknowledged answers; returns only when it needs no second try."""

    def __init__(self, topic: Topic, ports: Ports, outbox: Outbox) -> None:
        self._topic = topic
        self._ports = ports
        self._outbox = outbox
        self._handling = Patience(topic.name)
        self._sending = Patience(f"answers to {topic.name}")
        self._burying = Patience(f"dead-letter queue of {topic.name}")

    async def __call__(self, raw: RawRecord) -> None:
        """Raises StoreError when the store is unusable: then the service must end."""
        try:
            envelope = decode(self._topic, raw)
        except RecordError as error:
            await self._bury(raw, error, attempts=1)
            return
        with working(
            tracer,
            names.process(self._topic),
            context=extract(envelope.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(self._topic, "process", raw.partition, raw.offset),
        ):
            try:
                await self._send_all(await self._handle(raw, envelope))
            except RecordRefusedError as error:
                await self._send_all(await self._give_up(raw, envelope.record, error, attempts=1))

    async def _handle(self, raw: RawRecord, envelope: Envelope[Record]) -> list[Outgoing]:
        handler, record = HANDLERS[type(envelope.record)], envelope.record
        for attempt in range(1, MAX_ATTEMPTS + 1):
            timeout_s = patience_s(record, self._ports.clock_ms())
            try:
                return await self._handling.until_available(lambda: handler(record, self._ports), timeout_s=timeout_s)
            except TRANSIENT as error:
                return too_late(record, error)
            except StoreRefusedError as error:
                failure: Exception = error
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - a handler's bug must not block the records behind it
                failure = error
            log.error("%s at %s, attempt %d", self._topic.name, place(raw), attempt, exc_info=failure)
        return await self._give_up(raw, record, failure, MAX_ATTEMPTS)

    async def _give_up(self, raw: RawRecord, record: Record, error: Exception, attempts: int) -> list[Outgoing]:
        await self._bury(raw, error, attempts)
        return await self._handling.until_available(lambda: given_up(record, self._ports))

    async def _send_all(self, outgoing: Collection[Outgoing]) -> None:
        """Answers go last: whoever has one may rely on the rest."""
        answers = [each for each in outgoing if each.topic is REPLIES]
        await asyncio.gather(*(self._send(each) for each in outgoing if each.topic is not REPLIES))
        await asyncio.gather(*(self._send(each) for each in answers))

    async def _send(self, outgoing: Outgoing) -> None:
        await self._sending.until_available(lambda: self._outbox.send(outgoing))

    async def _bury(self, raw: RawRecord, error: Exception, attempts: int) -> None:
        log.error("%s at %s cannot be handled: %s", self._topic.name, place(raw), cause_of(error))
        await self._burying.until_available(lambda: self._outbox.bury(self._topic, raw, error, attempts))
