"""What cannot be handled blocks nothing: it goes to the topic's dead-letter queue with its cause (DESIGN 8.6)."""

import asyncio

from shared.log.tail import RawRecord
from shared.log.writer import Appended, LogWriter
from shared.records import DeadLetter, Record
from shared.records.codec import encode_value
from shared.telemetry.logs import named_cause_of
from shared.topics import DEAD_LETTERS, Service, Topic


def dead_letter(
    writer: LogWriter, service: Service, topic: Topic, record: RawRecord, error: Exception, attempts: int = 1
) -> asyncio.Future[Appended]:
    """Put a consumed record aside as it was. The future fails with AppendError like any append.

    The letter quotes what users wrote in the record alone: of the error it says what a log may (`named_cause_of`).
    """
    letter = DeadLetter(
        origin_topic=topic.name,
        origin_partition=record.partition,
        origin_offset=record.offset,
        service=service.value,
        error=named_cause_of(error),
        attempts=attempts,
        key=record.key,
        value=(record.value or b"").decode("utf-8", "backslashreplace"),
        headers={name: value.decode("utf-8", "replace") for name, value in record.headers},
    )
    return writer.enqueue(DEAD_LETTERS[topic.name], letter, partition=0)


def dead_work(
    writer: LogWriter, service: Service, topic: Topic, record: Record, error: str, attempts: int
) -> asyncio.Future[Appended]:
    """Put aside work that we produced ourselves and that nobody could finish (a poison job). `error` quotes no text."""
    letter = DeadLetter(
        origin_topic=topic.name,
        origin_partition=-1,
        origin_offset=-1,
        service=service.value,
        error=error,
        attempts=attempts,
        key=record.subject,
        value=encode_value(record).decode(),
    )
    return writer.enqueue(DEAD_LETTERS[topic.name], letter, partition=0)
