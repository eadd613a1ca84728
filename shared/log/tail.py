"""Following partitions from explicit offsets, without a group."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.errors import InvalidIdError, MalformedRecordError, ReplayGoneError
from shared.ids import ResponseId, parse_response_id
from shared.log.access import trouble
from shared.log.clients import close_consumer, make_consumer, opened, started, topic_name, until_opened
from shared.log.meters import ReaderMeter
from shared.log.reading import Reading
from shared.log.watching import HOPELESS, StalledError
from shared.records.codec import Envelope, trace_of
from shared.settings import KafkaSettings
from shared.telemetry.metrics import Metrics
from shared.topics import Partitioning, Party, Topic, assert_may_consume

log = logging.getLogger(__name__)

_POLL_MS = 200


class RawRecord(msgspec.Struct, frozen=True, gc=False):
    """A record before decoding: readers drop by key, or by the `ce_type` header, what is not for them."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def kind(self) -> str:
        """The record type according to the CloudEvents header, "" if there is none."""
        for name, value in self.headers:
            if name == "ce_type":
                return value.decode("utf-8", "replace").rpartition(".")[2]
        return ""


def raw(message: Any) -> RawRecord:
    """Translate aiokafka's record. A header without a value, which Kafka allows, is one with an empty one."""
    key = message.key.decode("utf-8", "replace") if message.key else ""
    headers = tuple(message.headers)
    for _, value in headers:
        if value is None:
            headers = tuple([(name, value or b"") for name, value in headers])
            break
    return RawRecord(message.partition, message.offset, message.timestamp, key, message.value, headers)


def offset_found(found: Any, end: int) -> int:
    """The offset in an answer to offsetsForTimes: None and (0, -1) both mean "past the end" (DESIGN 2)."""
    if found is None or (found.offset == 0 and found.timestamp == -1):
        return end
    return int(found.offset)


def decode(topic: Topic, record: RawRecord) -> Envelope[Any]:
    """Decode a record of `topic`. Raises RecordError, also where the record is about another response than its key:
    replays find a response's records by the key, and must come to the same as those who follow it live."""
    decoded = topic.decoder.decode(record.value, record.headers)
    if topic.partitioning is Partitioning.FROM_ID and decoded.subject != record.key:
        raise MalformedRecordError("the record's key is not the response that it is about")
    return Envelope(
        decoded,
        topic.name,
        record.partition,
        record.offset,
        record.timestamp_ms,
        trace_of(record.headers),
    )


def decode_of_response(topic: Topic, record: RawRecord) -> tuple[Envelope[Any], ResponseId]:
    """As `decode`, with the id of the response that the record is about. Raises RecordError also if it is none."""
    envelope = decode(topic, record)
    try:
        return envelope, parse_response_id(envelope.record.response_id)
    except InvalidIdError as error:
        raise MalformedRecordError(str(error)) from error


class Tail:
    """One consumer over a fixed set of partitions; assigned once, because a changed `assign()` loses positions.

    A consumer that stands still is replaced; `heals` counts how often. Readers notice nothing but the time it took.
    With `skips_gone`, what retention took before it was read is skipped: nobody misses old heartbeats, but a service
    that was paused for longer than they are kept must go on. `reader`: a service, or whoever reads from outside.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        reader: Party,
        topic: Topic,
        *,
        skips_gone: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        assert_may_consume(topic, reader)
        self.heals = 0
        self._skips_gone = skips_gone
        self._settings = settings
        self._name = topic_name(settings, topic)
        self._meter = ReaderMeter(metrics, topic)
        self._next: dict[TopicPartition, int] = {}
        self._what = f"read {self._name}"
        self._reading = Reading()

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._reading.consumer

    async def start(self, positions: Mapping[int, int | None]) -> None:
        """Assign partition → first offset to read; None is the end at this moment.

        When this returns, every record appended from now on will be seen; on the embedded broker, whose
        ListOffsets understates the end, also up to one batch of older ones. Raises BrokerUnavailableError,
        AccessDeniedError.
        """
        wanted = {TopicPartition(self._name, number): first for number, first in positions.items()}
        await self._start(lambda consumer: _offsets(consumer, wanted), list(wanted))

    async def start_since(self, partitions: Iterable[int], unix_ms: int) -> dict[int, int]:
        """As `start`, but from the first record on that is not older than `unix_ms`.

        Returns the ends of the partitions at this moment: who has read so far has caught up.
        """
        ends: dict[TopicPartition, int] = {}

        async def offsets(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
            ends.update(await consumer.end_offsets(wanted))
            found = await consumer.offsets_for_times(dict.fromkeys(wanted, max(0, unix_ms)))
            return {where: offset_found(found.get(where), ends[where]) for where in wanted}

        wanted = [TopicPartition(self._name, number) for number in partitions]
        await self._start(offsets, wanted)
        return {where.partition: end for where, end in ends.items()}

    async def _start(
        self,
        offsets: Callable[[AIOKafkaConsumer], Awaitable[dict[TopicPartition, int]]],
        wanted: list[TopicPartition],
    ) -> None:
        consumer = make_consumer(self._settings)

        async def begin() -> None:
            await consumer.start()
            consumer.assign(wanted)  # also asks for the topic's metadata
            self._next = await offsets(consumer)

        await started(self._settings, self._what, consumer, close_consumer, begin())
        self._seek(consumer)
        self._reading.adopt(consumer)
        self._meter.watch(lambda: self._reading.opened, lambda: self._reading.ends)

    def _seek(self, consumer: AIOKafkaConsumer) -> None:
        for partition, offset in self._next.items():
            consumer.seek(partition, offset)

    async def stop(self) -> None:
        """Disconnect; `batches()` ends."""
        self._meter.leave()
        await self._reading.close()

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        """Batches in log order per partition, until cancelled, also over outages of the broker.

        Raises ReplayGoneError past the retention unless it `skips_gone`, AccessDeniedError and BrokerUnavailableError
        for what no new connection mends.
        """
        while True:
            if found := await self._polled():
                yield found

    async def backlog(self) -> AsyncIterator[list[RawRecord]]:
        """As `batches()`, which goes on behind it, but up to the end of each partition as its latest fetch saw it."""
        while not all(first >= self._highwater(where) for where, first in self._next.items()):
            if found := await self._polled():
                yield found

    def _highwater(self, where: TopicPartition) -> float:
        known = self._consumer.highwater(where)
        return math.inf if known is None else known

    async def _polled(self) -> list[RawRecord]:
        """What one poll brings, nothing if it mended a trouble instead."""
        try:
            found = await self._reading.poll(_POLL_MS)
        except OffsetOutOfRangeError as error:
            if not self._skips_gone:
                raise ReplayGoneError(f"{self._name} no longer holds the wanted offsets: {error}") from error
            await self._skip(error)
            return []
        except HOPELESS as error:
            raise await trouble(self._settings, self._what, error) from error
        except (KafkaError, StalledError) as error:
            await self._heal(error)
            return []
        if not found:
            await asyncio.sleep(0)
        for partition, messages in found.items():
            self._next[partition] = messages[-1].offset + 1
        records = [raw(message) for messages in found.values() for message in messages]
        self._meter.read(len(records))
        return records

    async def _skip(self, error: OffsetOutOfRangeError) -> None:
        """Go on at the ends of the partitions that the error names. If nobody answers, the next poll ends here too."""
        (gone,) = error.args  # partition → the offset that was asked for
        try:
            ends = await self._consumer.end_offsets(list(gone))
        except KafkaError:
            return
        log.warning("%s no longer holds what was to come: skips to its end: %s", self._name, error)
        self._next |= ends
        for partition, offset in ends.items():
            self._consumer.seek(partition, offset)

    async def _heal(self, error: Exception) -> None:
        """Read on with a new consumer, once the broker answers."""
        self.heals += 1
        self._meter.healed()
        log.warning("%s is read anew from where it stands: %s", self._name, error)
        await self._reading.close()
        await self._reading.pause()
        consumer = await until_opened(
            self._settings, self._what, lambda: opened(make_consumer(self._settings), close_consumer)
        )
        consumer.assign(list(self._next))
        self._seek(consumer)
        self._reading.adopt(consumer)


async def _offsets(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, int | None]
) -> dict[TopicPartition, int]:
    ends = await consumer.end_offsets([where for where, first in wanted.items() if first is None])
    return {where: ends[where] if first is None else first for where, first in wanted.items()}
