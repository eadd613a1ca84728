"""Appending to the log, in order.

One sending coroutine per partition: aiokafka's `send()` may suspend when a batch is full, and two tasks that
send to one partition can then overtake each other (DESIGN 5.4).
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from shared.errors import AppendError, BrokerUnavailableError
from shared.ids import parse_response_id
from shared.log.clients import make_producer, topic_name
from shared.records import Record
from shared.records.codec import encode_headers, encode_value
from shared.settings import KafkaSettings
from shared.topics import Partitioning, Service, Topic, assert_may_produce

MAX_PENDING_RECORDS = 100_000


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the broker put a record, and its clock (unix ms) when it did."""

    partition: int
    offset: int
    timestamp_ms: int


def partition_of_key(key: str, partitions: int) -> int:
    """Stable hash of a key over `partitions`, the same in every process."""
    return zlib.crc32(key.encode()) % partitions


@dataclass(slots=True)
class _Pending:
    record: Record
    trace: Mapping[str, str] | None
    future: asyncio.Future[Appended]


class _Lane:
    """The queue of one partition and the coroutine that drains it."""

    def __init__(self) -> None:
        self.queue: deque[_Pending] = deque()
        self.task: asyncio.Task[None] | None = None


class LogWriter:
    """The one producer of a process. `source` is the service id that CloudEvents' `source` names."""

    def __init__(self, settings: KafkaSettings, service: Service, source: str) -> None:
        self._settings = settings
        self._service = service
        self._source = source
        self._producer = make_producer(settings)
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._pending = 0

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailableError."""
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise BrokerUnavailableError(
                f"no Kafka broker answers at {self._settings.bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS)"
            ) from error

    async def stop(self) -> None:
        """Send what is queued, then disconnect. Batches that cannot be sent expire by themselves."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._producer.stop()

    async def append(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> Appended:
        """Append and wait for the acknowledgement of all in-sync replicas. Raises AppendError."""
        return await self.enqueue(topic, record, partition=partition, trace=trace)

    def enqueue(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> asyncio.Future[Appended]:
        """Append behind every earlier call for the same partition; the future fails with AppendError.

        `partition` is required for mailboxes and replies; else it follows from the response id or the key.
        Raises AppendError at once when MAX_PENDING_RECORDS are waiting, TopicError on a breach of the registry.
        """
        assert_may_produce(topic, self._service, record)
        if self._pending >= MAX_PENDING_RECORDS:
            raise AppendError(f"{self._pending:,} records wait for the broker: nothing more is taken")
        where = self._partition(topic, record) if partition is None else partition
        name = topic_name(self._settings, topic)
        lane = self._lanes.setdefault((name, where), _Lane())
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        lane.queue.append(_Pending(record, trace, future))
        self._pending += 1
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(lane, name, where), name=f"append {name}/{where}")
        return future

    def _partition(self, topic: Topic, record: Record) -> int:
        if topic.partitioning is Partitioning.FROM_ID:
            return parse_response_id(record.subject).partition
        if topic.partitioning is Partitioning.KEY:
            return partition_of_key(record.subject, topic.partitions or self._settings.partitions)
        raise ValueError(f"{topic.name}: the partition must be given ({topic.partitioning})")

    async def _drain(self, lane: _Lane, name: str, partition: int) -> None:
        while lane.queue:
            item = lane.queue.popleft()
            try:
                sent = await self._producer.send(
                    name,
                    encode_value(item.record),
                    key=item.record.subject.encode(),
                    partition=partition,
                    headers=encode_headers(item.record, self._source, item.trace),
                )
            except (KafkaError, ValueError) as error:
                self._settle(item, name, error)
            else:
                sent.add_done_callback(lambda done, item=item: self._sent(done, item, name))
        lane.task = None

    def _sent(self, done: "asyncio.Future[object]", item: _Pending, name: str) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            self._settle(item, name, error)
            return
        metadata = done.result()
        self._pending -= 1
        if not item.future.done():
            item.future.set_result(Appended(metadata.partition, metadata.offset, metadata.timestamp))  # type: ignore[attr-defined]

    def _settle(self, item: _Pending, name: str, error: BaseException) -> None:
        self._pending -= 1
        if not item.future.done():
            failure = AppendError(f"append to {name} failed: {type(error).__name__} {error}".rstrip())
            failure.__cause__ = error
            item.future.set_exception(failure)
