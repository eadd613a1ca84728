"""The way out: appends with their producer spans, and the dead-letter queue."""

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.history.ports import Outgoing
from shared.log import LogWriter, RawRecord, put_aside
from shared.records import JournalRecord
from shared.telemetry import inject, names, working
from shared.topics import Service, Topic

tracer = trace.get_tracer(__name__)


class LogOutbox:
    """The `Outbox` port over the process's one `LogWriter`."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

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
        await put_aside(self._writer, Service.HISTORY, topic, record, error, attempts)
