"""Appending to the log, in order.

One sending coroutine per partition: aiokafka may suspend while an earlier batch waits, and two tasks that send to one
partition can then overtake each other (DESIGN 5.4). It sends everything that is queued as one batch: aiokafka's
`send()` makes a future, a timestamp and a metadata object for each record, which costs more than the record.
"""

import asyncio
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder

from shared.errors import AccessDeniedError, AppendError, BrokerUnavailableError, RecordRefusedError
from shared.ids import now_ms, parse_response_id
from shared.log.access import FORBIDDEN, forbidden
from shared.log.clients import (
    MAX_REQUEST_BYTES,
    abandon_producer,
    close_producer,
    find_partition,
    make_producer,
    opened,
    started,
    topic_name,
    until_opened,
)
from shared.log.meters import LaneMeter, WriterMeter
from shared.records import Record
from shared.records.codec import encode_headers, encode_value, header_time
from shared.settings import KafkaSettings
from shared.telemetry import apart
from shared.telemetry.metrics import Metrics
from shared.topics import Partitioning, Party, Topic, assert_may_produce

log = logging.getLogger(__name__)

P = ParamSpec("P")

MAX_PENDING_RECORDS = 100_000
EXPIRES_AFTER_REQUESTS = 2
"""A batch expires after one request timeout, but aiokafka looks only when the request under way has timed out too."""
_SPARE_S = 1.0
_UNWRITABLE = (TypeError, ValueError, msgspec.MsgspecError)
"""What encoding a record raises: a value of a foreign type, a lone surrogate."""


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where the broker put a record, and its clock (unix ms) when it did."""

    partition: int
    offset: int
    timestamp_ms: int


def partition_of_key(key: str, partitions: int) -> int:
    """Stable hash of a key over `partitions`, the same in every process."""
    return zlib.crc32(key.encode()) % partitions


@dataclass(slots=True, eq=False)
class _Pending:
    lane: "_Lane"
    record: Record
    trace: Mapping[str, str] | None
    future: asyncio.Future[Appended]


def _check_size(batch: BatchBuilder) -> None:
    """Raises MessageSizeTooLargeError, as `AIOKafkaProducer.send` would: so long a record is alone in its batch."""
    if batch.size() > MAX_REQUEST_BYTES:
        raise MessageSizeTooLargeError(f"{batch.size():,} bytes exceed the limit of {MAX_REQUEST_BYTES:,}")


def failing_late(
    append: Callable[P, "asyncio.Future[Appended]"], *args: P.args, **options: P.kwargs
) -> "asyncio.Future[Appended]":
    """`append(...)`; what the writer refuses at once, because it is full, has failed like any other append."""
    try:
        return append(*args, **options)
    except AppendError as error:
        failed: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed


class _Lane:
    """The queue of one partition of the topic `name` and the coroutine that drains it."""

    def __init__(self, name: str, partition: int, meter: LaneMeter) -> None:
        self.name = name
        self.partition = partition
        self.meter = meter
        self.queue: deque[_Pending] = deque()
        self.task: asyncio.Task[None] | None = None


class LogWriter:
    """The one producer of a process. `source` is the service id that CloudEvents' `source` names.

    Every append is settled in bounded time. A producer that settles nothing any more, or whose sender died, is
    replaced; `heals` counts how often. Whoever has one watches `failed()`.
    """

    def __init__(self, settings: KafkaSettings, party: Party, source: str, *, metrics: Metrics | None = None) -> None:
        self.heals = 0
        self._meter = WriterMeter(metrics, party)
        self._settings = settings
        self._what = f"append at {settings.bootstrap_servers}"
        self._party = party
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._sent_items: set[_Pending] = set()
        self._pending = 0
        self._settled = 0
        self._broken = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._forbidden: AccessDeniedError | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailableError, AccessDeniedError."""
        producer = make_producer(self._settings)
        self._producer = await started(self._settings, self._what, producer, abandon_producer)
        self._watch = asyncio.create_task(self._keep_alive(), name=f"writer of {self._source}")

    async def stop(self) -> None:
        """Send what is queued, then disconnect. Batches that cannot be sent expire by themselves."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._producer is not None:
            await close_producer(self._producer, self._patience_s)

    async def failed(self) -> None:
        """Returns never; raises AccessDeniedError once the broker forbids an append, or lets this client in no more."""
        assert self._watch is not None, "start() first"
        await asyncio.shield(self._watch)

    @property
    def _patience_s(self) -> float:
        """Longer than any append takes while the producer lives."""
        return EXPIRES_AFTER_REQUESTS * self._settings.request_timeout_ms / 1000 + _SPARE_S

    async def append(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> Appended:
        """Append and wait for the acknowledgement of all in-sync replicas. Raises AppendError, of which a
        RecordRefusedError is the record's own fault."""
        return await self.enqueue(topic, record, partition=partition, trace=trace)

    def enqueue(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> asyncio.Future[Appended]:
        """Append behind every earlier call for the same partition; the future fails with AppendError.

        `partition` is required for mailboxes and replies; else it follows from the response id or the key.
        Raises AppendError at once when MAX_PENDING_RECORDS are waiting, TopicError on a breach of the registry.
        """
        assert_may_produce(topic, self._party, record)
        if self._pending >= MAX_PENDING_RECORDS:
            raise AppendError(f"{self._pending:,} records wait for the broker: nothing more is taken")
        where = self._partition(topic, record) if partition is None else partition
        lane = self._lanes.get((topic.name, where))
        if lane is None:
            name = topic_name(self._settings, topic)
            lane = self._lanes[topic.name, where] = _Lane(name, where, self._meter.lane(topic))
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        lane.queue.append(_Pending(lane, record, trace, future))
        self._pending += 1
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(lane), name="append", context=apart())
        return future

    def letter_lost(self, source: Topic) -> None:
        """Count that a record of this topic will have no dead letter: who appends one knows when to give up."""
        self._meter.letter_lost(source)

    def _partition(self, topic: Topic, record: Record) -> int:
        if topic.partitioning is Partitioning.FROM_ID:
            return parse_response_id(record.subject).partition
        if topic.partitioning is Partitioning.KEY:
            return partition_of_key(record.subject, topic.partitions or self._settings.partitions)
        raise ValueError(f"{topic.name}: the partition must be given ({topic.partitioning})")

    async def _drain(self, lane: _Lane) -> None:
        while lane.queue:
            if self._producer is None:
                self._fail(self._next(lane), BrokerUnavailableError("the broker does not answer yet"))
            else:
                await self._send(lane, self._producer)
        lane.task = None

    async def _send(self, lane: _Lane, producer: AIOKafkaProducer) -> None:
        """Hand one batch over, or fail what is in it: a lane whose task ended otherwise would stand still for ever."""
        batch, items, created_ms = producer.create_batch(), list[_Pending](), now_ms()
        self._fill(batch, items, lane, created_ms)
        if not items:
            return
        began_s = time.perf_counter()
        try:
            _check_size(batch)
            await find_partition(producer.client, lane.name, lane.partition, self._patience_s)
            sent = await producer.send_batch(batch, lane.name, partition=lane.partition)
        except MessageSizeTooLargeError as error:
            self._fail_all(items, error, RecordRefusedError)
        except Exception as error:  # noqa: BLE001 - whatever it is, who appended must hear of it
            self._fail_all(items, error)
            # The bare class says that the sender's task has died: everything later fails likewise. Where a producer has
            # not found a partition within our patience, the task that looks for it has.
            if type(error) is KafkaError or isinstance(error, ProducerClosed | TimeoutError):
                self._broken.set()
        else:
            sent.add_done_callback(partial(self._sent, lane, items, created_ms, began_s))

    def _fill(self, batch: BatchBuilder, items: list[_Pending], lane: _Lane, created_ms: int) -> None:
        """Move what is queued into the batch and into `items`, until it is full; fail what cannot be sent at all."""
        created = header_time(created_ms)
        while lane.queue:
            item = lane.queue[0]
            try:
                value, key = encode_value(item.record), item.record.subject.encode()
                headers = encode_headers(item.record, self._source, item.trace, time=created)
            except _UNWRITABLE as error:
                self._fail(self._next(lane), error, RecordRefusedError)
                continue
            # A batch always takes its first record, however long that is.
            if batch.append(timestamp=created_ms, key=key, value=value, headers=headers) is None:
                break
            items.append(self._next(lane))
        batch.close()

    def _next(self, lane: _Lane) -> _Pending:
        item = lane.queue.popleft()
        self._sent_items.add(item)
        return item

    def _sent(
        self, lane: _Lane, items: list[_Pending], created_ms: int, began_s: float, done: "asyncio.Future[Any]"
    ) -> None:
        error = asyncio.CancelledError("the producer was closed") if done.cancelled() else done.exception()
        if error is not None:
            too_large = isinstance(error, MessageSizeTooLargeError)  # alone in its batch: see `_check_size`
            self._fail_all(items, error, RecordRefusedError if too_large else AppendError)
            return
        first = done.result()
        lane.meter.sent(len(items), began_s)
        # Without LogAppendTime the broker gives -1: the records keep the time of their creation.
        timestamp_ms = created_ms if first.timestamp == -1 else first.timestamp
        for number, item in enumerate(items):
            if self._take_off(item):
                item.future.set_result(Appended(first.partition, first.offset + number, timestamp_ms))

    def _fail_all(self, items: list[_Pending], error: BaseException, kind: type[AppendError] = AppendError) -> None:
        for item in items:
            self._fail(item, error, kind)

    def _fail(self, item: _Pending, error: BaseException, kind: type[AppendError] = AppendError) -> None:
        if isinstance(error, FORBIDDEN):
            self._forbidden = forbidden(self._settings, f"append to {item.lane.name}", error)
            self._broken.set()
        if self._take_off(item):
            item.lane.meter.failed(error)
            failure = kind(f"append to {item.lane.name} failed: {str(error) or type(error).__name__}")
            failure.__cause__ = error
            item.future.set_exception(failure)

    def _take_off(self, item: _Pending) -> bool:
        """The item needs no more of us; False if nobody waits for it any more."""
        if item in self._sent_items:
            self._sent_items.remove(item)
            self._pending -= 1
            self._settled += 1
        return not item.future.done()

    # -- a producer that has failed ------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Replace the producer when its sender died, or when nothing was settled for longer than an append takes."""
        while True:
            settled, waiting = self._settled, self._pending
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._broken.wait()
            except TimeoutError:
                if not waiting or self._settled != settled:
                    continue
            self._broken.clear()
            if self._forbidden is not None:
                raise self._forbidden
            await self._replace()

    async def _replace(self) -> None:
        """Give up what the old producer holds, and go on with a new one."""
        self.heals += 1
        log.error("the producer of %s is replaced: %d appends are given up", self._source, self._pending)
        broken, self._producer = self._producer, None
        self._give_up()
        if broken is not None:
            await abandon_producer(broken)
        self._producer = await until_opened(
            self._settings, self._what, lambda: opened(make_producer(self._settings), abandon_producer)
        )

    def _give_up(self) -> None:
        error = AppendError("its producer answers no more")
        for lane in self._lanes.values():
            if lane.task is not None:
                lane.task.cancel()
                lane.task = None
            self._sent_items.update(lane.queue)
            lane.queue.clear()
        for item in list(self._sent_items):
            self._fail(item, error)
