"""What is said of a record that cannot be read: what is wrong with it, and nothing of what it holds."""

import json
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from shared.errors import MalformedRecordError, RecordError, UnknownRecordError
from shared.log import decode, put_aside
from shared.log.tail import raw
from shared.records import DeadLetter, Deleted, Record, Stop
from shared.records.codec import encode_value
from shared.topics import EVENTS, JOBS, JOURNAL, REGISTRY, VERDICTS, Service, Topic

SECRET = "what a user wrote"
STOP = Stop(response_id="resp_1")


def received(record: Record, headers: tuple[tuple[str, bytes | None], ...], key: bytes = b"resp_1") -> Any:
    """As aiokafka gives it."""
    value = encode_value(record)
    return SimpleNamespace(partition=0, offset=7, timestamp=0, key=key, value=value, headers=headers)


def said_of(decode: Callable[[bytes], object], value: object) -> str:
    with pytest.raises(RecordError) as raised:
        decode(json.dumps(value).encode())
    return str(raised.value)


@pytest.mark.parametrize(
    "text", [SECRET, "it's quoted", 'with "quotes"', "both ' and \"", "two\nlines", "Zaunkönig - at"]
)
def test_no_value_is_repeated(text: str) -> None:
    said = said_of(VERDICTS.decoder.decode, {"type": "verdict", "stage": text})
    assert text not in said
    assert "$.stage" in said
    assert text not in said_of(JOURNAL.decoder.decode, {"type": text})


def test_the_name_of_a_type_from_another_release_is() -> None:
    with pytest.raises(UnknownRecordError, match="brand_new"):
        JOURNAL.decoder.decode(b'{"type": "brand_new"}')


async def test_a_header_may_have_no_value() -> None:
    headers = (("ce_type", None), ("ce_schemaversion", None), ("traceparent", None), ("tracestate", b"a=b"))
    record = raw(received(STOP, headers))
    assert record.kind == ""
    assert decode(JOBS, record).record == STOP
    letters: list[DeadLetter] = []

    async def append(_topic: Topic, letter: DeadLetter, *, partition: int) -> None:
        letters.append(letter)

    writer: Any = SimpleNamespace(append=append)
    assert await put_aside(writer, Service.INFERENCE, JOBS, record, MalformedRecordError("whatever"))
    (letter,) = letters
    assert letter.headers == {"ce_type": "", "ce_schemaversion": "", "traceparent": "", "tracestate": "a=b"}


every_topic = pytest.mark.parametrize("topic", REGISTRY.values(), ids=lambda topic: topic.name)


@every_topic
@pytest.mark.parametrize("levels", [1_500, 100_000])
def test_what_is_nested_too_deeply_is_malformed(topic: Topic, levels: int) -> None:
    with pytest.raises(MalformedRecordError, match="nested"):
        topic.decoder.decode(b'{"more": ' + b"[" * levels)


@every_topic
def test_a_schema_version_of_any_length_is_that_of_another_release(topic: Topic) -> None:
    with pytest.raises(UnknownRecordError, match="schema version"):
        topic.decoder.decode(b"{}", [("ce_schemaversion", b"9" * 5_000)])


def test_a_record_that_its_key_does_not_name_is_malformed_where_readers_go_by_the_key() -> None:
    """Who follows live would fold it, who replays would not find it."""
    record = Deleted(response_id="resp_1", tenant="acme")
    assert decode(EVENTS, raw(received(record, ()))).record == record
    with pytest.raises(MalformedRecordError, match="key"):
        decode(EVENTS, raw(received(record, (), key=b"resp_2")))


def batch(*names: bytes) -> bytearray:
    """A batch of Kafka's format 2: a record for each name, with one header of that name; the offset is its value."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 10_000)
    for offset, name in enumerate(names):
        builder.append(offset, timestamp=0, key=None, value=b"%d" % offset, headers=[("?" * len(name), b"")])
    built = bytearray(builder.build())
    for name in names:
        at = built.find(b"?" * len(name))
        built[at : at + len(name)] = name
    struct.pack_into(">I", built, 17, calc_crc32c(bytes(built[21:])))
    return built


def following(before: bytearray, built: bytearray) -> bytearray:
    """`built`, at the offsets behind `before`."""
    (last,) = struct.unpack_from(">i", before, 23)
    struct.pack_into(">q", built, 0, last + 1)
    return before + built


def test_a_batch_with_a_header_that_nobody_can_name_is_passed_over_and_told(caplog: pytest.LogCaptureFixture) -> None:
    fetched = following(batch(b"good", b"b\xffd", b"lost"), batch(b"next"))
    where = TopicPartition("responses.events", 3)
    records = fetcher.PartitionRecords(where, MemoryRecords(bytes(fetched)), [], 0, None, None, True, 0)
    assert [(record.offset, record.value) for record in records] == [(0, b"0"), (3, b"0")]
    assert records.next_fetch_offset == 4
    (said,) = caplog.records
    assert "responses.events/3" in said.getMessage() and "up to offset 2" in said.getMessage()


def test_where_reading_goes_on_within_such_a_batch_nothing_of_it_is_left() -> None:
    records = fetcher.PartitionRecords(
        TopicPartition("responses.events", 3), MemoryRecords(bytes(batch(b"\xff", b"lost"))), [], 1, None, None, True, 0
    )
    assert list(records) == [] and records.next_fetch_offset == 2


@pytest.mark.parametrize("codec", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
def test_what_a_broker_or_another_client_compressed_is_read(codec: int) -> None:
    """Brokers compress anew where their `compression.type` says so."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, 0, 10_000)
    builder.append(0, timestamp=0, key=None, value=b"said " * 100, headers=[])
    fetched = MemoryRecords(bytes(builder.build()))
    records = fetcher.PartitionRecords(TopicPartition("t", 0), fetched, [], 0, None, None, True, 0)
    assert [record.value for record in records] == [b"said " * 100]
