"""Following partitions from explicit offsets, without a group."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.errors import BrokerUnavailableError, ReplayGoneError
from shared.log.clients import make_consumer, topic_name
from shared.records.codec import Envelope, trace_of
from shared.settings import KafkaSettings
from shared.topics import Service, Topic, assert_may_consume

_POLL_MS = 200


@dataclass(frozen=True, slots=True)
class RawRecord:
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
    """Translate aiokafka's record."""
    key = message.key.decode("utf-8", "replace") if message.key else ""
    return RawRecord(message.partition, message.offset, message.timestamp, key, message.value, tuple(message.headers))


def decode(topic: Topic, record: RawRecord) -> Envelope[Any]:
    """Decode a record of `topic`. Raises RecordError."""
    return Envelope(
        topic.decoder.decode(record.value, record.headers),
        topic.name,
        record.partition,
        record.offset,
        record.timestamp_ms,
        trace_of(record.headers),
    )


class Tail:
    """One consumer over a fixed set of partitions; assigned once, because a changed `assign()` loses positions."""

    def __init__(self, settings: KafkaSettings, service: Service, topic: Topic) -> None:
        assert_may_consume(topic, service)
        self._settings = settings
        self._name = topic_name(settings, topic)
        self._consumer = make_consumer(settings)

    async def start(self, positions: Mapping[int, int | None]) -> None:
        """Assign partition → first offset to read; None is the end at this moment.

        When this returns, every record appended from now on will be seen; on the embedded broker, whose
        ListOffsets understates the end, also up to one batch of older ones. Raises BrokerUnavailableError.
        """
        try:
            await self._consumer.start()
            partitions = [TopicPartition(self._name, number) for number in positions]
            self._consumer.assign(partitions)
            ends = await self._consumer.end_offsets([p for p in partitions if positions[p.partition] is None])
        except KafkaError as error:
            await self._consumer.stop()
            raise BrokerUnavailableError(f"cannot read {self._name}: {type(error).__name__} {error}") from error
        for partition in partitions:
            wanted = positions[partition.partition]
            self._consumer.seek(partition, ends[partition] if wanted is None else wanted)

    async def stop(self) -> None:
        """Disconnect; `batches()` ends."""
        await self._consumer.stop()

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        """Batches in log order per partition, until cancelled. Raises ReplayGoneError past the retention."""
        while True:
            try:
                found = await self._consumer.getmany(timeout_ms=_POLL_MS)
            except OffsetOutOfRangeError as error:
                raise ReplayGoneError(f"{self._name} no longer holds the wanted offsets: {error}") from error
            if not found:
                await asyncio.sleep(0)
                continue
            yield [raw(message) for messages in found.values() for message in messages]
