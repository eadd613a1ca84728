"""The way out of a handler: appends with their producer spans, and the dead-letter queue."""

from dataclasses import dataclass
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from shared.log import LogWriter, RawRecord, put_aside
from shared.records import JournalRecord, Record
from shared.telemetry import inject, names, working
from shared.topics import Service, Topic

tracer = trace.get_tracer("chatmesh.control")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record that a handler wants appended; `partition` only where it does not follow from the record."""

    topic: Topic
    record: Record
    partition: int | None = None


class Outbox(Protocol):
    """Appends and waits for the acknowledgement; both raise LogError."""

    async def send(self, outgoing: Outgoing) -> None:
        """Append a record, in the current trace."""

    async def bury(self, topic: Topic, record: RawRecord, error: Exception, attempts: int) -> None:
        """Put a record of `topic` aside that could not be handled in `attempts` attempts."""


class LogOutbox:
    """The `Outbox` of `service` over the process's one `LogWriter`."""

    def __init__(self, writer: LogWriter, service: Service) -> None:
        self._writer = writer
        self._service = service

    async def send(self, outgoing: Outgoing) -> None:
        """See `Outbox.send`."""
        topic, record = outgoing.topic, outgoing.record
        with working(tracer, names.send(topic), kind=SpanKind.PRODUCER) as span:
            if isinstance(record, JournalRecord):
                span.set_attribute(names.RESPONSE_ID, record.response_id)
            appended = await self._writer.append(topic, record, partition=outgoing.partition, trace=inject(span))
            span.set_attributes(names.messaging(topic, "send", appended.partition, appended.offset))

    async def bury(self, topic: Topic, record: RawRecord, error: Exception, attempts: int) -> None:
        """See `Outbox.bury`."""
        await put_aside(self._writer, self._service, topic, record, error, attempts)
