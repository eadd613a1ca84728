"""What cannot be handled blocks nothing: it goes to the topic's dead-letter queue with its cause (DESIGN 8.6).

How long somebody waits for the queue depends on what waits with them: the control plane and the recorder as long as it
takes, a mailbox for seconds, an owner takes its partition over anew, and a gateway, beside whom history reads the same
record, not at all. What the queue never takes is the same for all of them.
"""

import logging
from itertools import islice

import msgspec

from shared.errors import RecordRefusedError
from shared.log.clients import MAX_REQUEST_BYTES
from shared.log.tail import RawRecord
from shared.log.writer import LogWriter
from shared.records import DeadLetter, Record
from shared.records.codec import encode_value
from shared.telemetry.logs import named_cause_of
from shared.topics import DEAD_LETTERS, Service, Topic

log = logging.getLogger(__name__)

_MOST_BYTES = MAX_REQUEST_BYTES - 16 * 1024
"""The rest is for what stands around the letter."""
# Characters, of which JSON makes up to six bytes each.
_VALUE = 256 * 1024
_PART = 1024
_MOST_HEADERS = 64


async def put_aside(
    writer: LogWriter, service: Service, topic: Topic, record: RawRecord, error: Exception, attempts: int = 1
) -> bool:
    """Put a consumed record aside as it was; of one that does not fit its letter, the beginning. False if no broker
    takes it all the same: then the log names the place where it stands. Raises AppendError, after which a second try
    may succeed.

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
    refused = await _refusal(writer, topic, letter)
    if refused is not None:
        note_lost(writer, topic, record, refused)
    return refused is None


async def _refusal(writer: LogWriter, topic: Topic, letter: DeadLetter) -> RecordRefusedError | None:
    """Append the letter; why no broker takes it, None where one has. Raises AppendError."""
    try:
        await writer.append(DEAD_LETTERS[topic.name], _fitting(letter), partition=0)
    except RecordRefusedError as refused:
        return refused
    return None


def _fitting(letter: DeadLetter) -> DeadLetter:
    """`letter`, or where it is longer than a request may be, the beginnings of its parts and how long it was."""
    # The key stands in the record itself and in its headers too.
    size = len(encode_value(letter)) + 2 * len(letter.subject.encode())
    if size <= _MOST_BYTES:
        return letter
    return msgspec.structs.replace(
        letter,
        error=f"{letter.error} (too long for its dead letter: {size:,} bytes where {_MOST_BYTES:,} fit)",
        key=(letter.key or "")[:_PART],
        value=letter.value[:_VALUE],
        headers={name[:_PART]: value[:_PART] for name, value in islice(letter.headers.items(), _MOST_HEADERS)},
        shortened=True,
    )


def note_lost(writer: LogWriter, topic: Topic, record: RawRecord, error: Exception) -> None:
    """Say, and count, that a consumed record has no dead letter: it stands nowhere but where it was read."""
    writer.letter_lost(topic)
    log.error("%s %d/%d has no dead letter, look for it there: %s", topic.name, record.partition, record.offset, error)


async def put_work_aside(
    writer: LogWriter, service: Service, topic: Topic, record: Record, error: str, attempts: int
) -> bool:
    """Likewise work that we produced ourselves and that nobody could finish (a poison job). `error` quotes no text."""
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
    refused = await _refusal(writer, topic, letter)
    if refused is not None:
        writer.letter_lost(topic)
        log.error("%s of %s has no dead letter: %s", type(record).__name__, record.subject, refused)
    return refused is None
