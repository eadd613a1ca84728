"""Finding one response's sub-log by its id alone: time and partition stand in the id (DESIGN 2)."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.errors import BrokerUnavailableError, RecordError, ReplayGoneError
from shared.ids import ResponseId
from shared.log.access import trouble
from shared.log.clients import close_consumer, make_consumer, opened, started, topic_name
from shared.log.meters import ReaderMeter
from shared.log.tail import RawRecord, decode, offset_found, raw
from shared.log.watching import STALLED_AFTER_S, StalledError
from shared.records import Accepted, Requested, Screening
from shared.records.codec import Envelope
from shared.settings import MeshSettings
from shared.telemetry.metrics import Metrics
from shared.topics import Service, Topic, assert_may_consume

log = logging.getLogger(__name__)

_POLL_MS = 1000
# Behind its last record a scan leaves a fetch that waits at the log's end, and a broker answers a connection's requests
# in turn: the next replay would wait for it.
_FETCH_MAX_WAIT_MS = 5
_NO_LIMIT = 1 << 62
_FIRST_KINDS = (Requested, Accepted)

Clock = Callable[[], float]


@dataclass(frozen=True)
class Replay:
    """The records of one response up to `next_offset`, from which a follower goes on without gap or overlap."""

    records: list[Envelope[Any]]
    next_offset: int


class Replayer:
    """Replays responses one at a time over one connection.

    Raises BrokerUnavailableError in bounded time when the broker is away; the next replay connects anew. `heals`
    counts the connections that were given up.
    """

    def __init__(
        self,
        settings: MeshSettings,
        service: Service,
        *,
        metrics: Metrics | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.heals = 0
        self._settings = settings
        self._service = service
        self._metrics = metrics or Metrics(None)
        self._clock = clock
        self._connected: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()
        self._failed_s = -math.inf

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailableError."""
        consumer = _make_consumer(self._settings)
        self._connected = await started(self._settings, "reach the broker", consumer, close_consumer)

    async def stop(self) -> None:
        """Disconnect."""
        if self._connected is not None:
            await close_consumer(self._connected)

    @asynccontextmanager
    async def _connection(self, topic: Topic) -> AsyncIterator[AIOKafkaConsumer]:
        """The consumer for one replay. After a failure nobody knows what it is good for, so it is given up."""
        asked_s = self._clock()
        async with self._lock:
            if asked_s < self._failed_s:
                # Who waited while it failed would only fail as slowly again, one after the other.
                raise BrokerUnavailableError(f"cannot replay {topic.name}: the broker does not answer")
            try:
                yield await self._reconnected()
            except OffsetOutOfRangeError as error:
                raise ReplayGoneError(f"{topic.name} no longer holds the wanted offsets: {error}") from error
            except (KafkaError, StalledError) as error:
                await self._give_up()
                ReaderMeter(self._metrics, topic).healed()
                raise await trouble(self._settings, f"replay {topic.name}", error) from error

    async def _reconnected(self) -> AIOKafkaConsumer:
        if self._connected is None:
            self._connected = await opened(_make_consumer(self._settings), close_consumer)
        return self._connected

    async def _give_up(self) -> None:
        broken, self._connected = self._connected, None
        self.heals += 1
        self._failed_s = self._clock()
        if broken is not None:
            await close_consumer(broken)

    async def replay(
        self, topic: Topic, response_id: ResponseId, *, start: int | None = None, until: int | None = None
    ) -> Replay:
        """All records of the response in `topic`, up to its end now or up to offset `until` (inclusive).

        `start`, where it is known, saves the search by time. An empty list means that the log covers the
        response's time and has nothing of it. Raises ReplayGoneError when retention passed its beginning.
        """
        assert_may_consume(topic, self._service)
        partition = TopicPartition(topic_name(self._settings, topic), response_id.partition)
        async with self._connection(topic) as consumer:
            scan = self._scan(consumer, topic, partition)
            await scan.open(until)
            if start is not None and start >= scan.begin:
                return await scan.read(start, {response_id.text.encode()})
            return await scan.search(response_id)

    async def read(
        self,
        topic: Topic,
        partition: int,
        keys: Collection[str],
        *,
        since_ms: int,
        start: int | None = None,
        until: int | None = None,
    ) -> Replay:
        """All records of the responses `keys` in one partition, from `since_ms` less the skew margin on.

        One scan for many responses: what an owner needs that takes a partition over, or a worker that takes over what
        another one leaves. `start` and `until` as in `replay`, but what retention took of the beginning is not missed.
        """
        assert_may_consume(topic, self._service)
        where = TopicPartition(topic_name(self._settings, topic), partition)
        wanted = {key.encode() for key in keys}
        async with self._connection(topic) as consumer:
            scan = self._scan(consumer, topic, where)
            await scan.open(until)
            if start is None or start < scan.begin:
                start = await scan.offset_at(since_ms - self._margin_ms)
            return await scan.read(start, wanted)

    def _scan(self, consumer: AIOKafkaConsumer, topic: Topic, partition: TopicPartition) -> "_Scan":
        return _Scan(consumer, topic, partition, self._margin_ms, self._clock, ReaderMeter(self._metrics, topic))

    @property
    def _margin_ms(self) -> int:
        return int(self._settings.skew_margin_s * 1000)


class _Scan:
    """Reading one partition from `begin` to `end`, which grows, and never past `limit`."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topic: Topic,
        partition: TopicPartition,
        margin_ms: int,
        clock: Clock,
        meter: ReaderMeter,
    ) -> None:
        self.begin = self.end = 0
        self._limit = _NO_LIMIT
        self._consumer = consumer
        self._topic = topic
        self._partition = partition
        self._margin_ms = margin_ms
        self._clock = clock
        self._meter = meter

    async def open(self, until: int | None) -> None:
        """Find the bounds. A given `until` was acknowledged: it exists."""
        self._consumer.assign([self._partition])
        self.begin = (await self._consumer.beginning_offsets([self._partition]))[self._partition]
        if until is not None:
            self.end = self._limit = until + 1
        else:
            self.end = (await self._consumer.end_offsets([self._partition]))[self._partition]

    async def search(self, response_id: ResponseId) -> Replay:
        """Seek by time less the skew margin; unless the first record is a first kind, step back, doubling.

        `screening` does not count: an owner marks its epoch even if nothing was accepted before it took over.
        """
        back_ms = self._margin_ms
        while True:
            start = await self.offset_at(response_id.created_ms - back_ms)
            found = await self.read(start, {response_id.text.encode()})
            first = next((e.record for e in found.records if not isinstance(e.record, Screening)), None)
            if isinstance(first, _FIRST_KINDS):
                return found
            if start <= self.begin:
                break
            back_ms = max(1000, back_ms) * 2
        if first is not None or (self.begin > 0 and await self._older_than_log(response_id)):
            raise ReplayGoneError(f"{self._topic.name} no longer holds the beginning of {response_id.text}")
        return found

    async def offset_at(self, unix_ms: int) -> int:
        """The first offset whose record is not older than that, the end if there is none."""
        times = {self._partition: max(0, unix_ms)}
        found = (await self._consumer.offsets_for_times(times)).get(self._partition)
        return max(self.begin, offset_found(found, self.end))

    async def _older_than_log(self, response_id: ResponseId) -> bool:
        return await self.offset_at(response_id.created_ms - self._margin_ms) <= self.begin

    async def read(self, start: int, wanted: Collection[bytes]) -> Replay:
        """The wanted records from `start` to the end, which may grow. Raises StalledError when it gets nowhere.

        The embedded broker's ListOffsets understates the end by up to one batch; the high watermark that comes
        with each fetch is right on every broker, so the scan goes on to it, but never past the limit.
        """
        records: list[Envelope[Any]] = []
        self._consumer.resume(self._partition)
        self._consumer.seek(self._partition, start)
        moved_s = self._clock()
        while await self._consumer.position(self._partition) < self.end:
            found = await self._consumer.getmany(self._partition, timeout_ms=_POLL_MS)
            messages = found.get(self._partition, ())
            self._meter.read(len(messages))
            for message in messages:
                if message.offset < self._limit and message.key in wanted:
                    records += _readable(self._topic, raw(message))
            self.end = min(self._limit, max(self.end, self._consumer.highwater(self._partition) or 0))
            moved_s = self._clock() if found else moved_s
            if self._clock() - moved_s > STALLED_AFTER_S:
                raise StalledError(f"no record came for {STALLED_AFTER_S:g} s, {self.end} is the end")
        self._consumer.pause(self._partition)  # until the next read: no fetches into the void
        return Replay(records, self.end)


def _make_consumer(settings: MeshSettings) -> AIOKafkaConsumer:
    return make_consumer(settings, fetch_max_wait_ms=_FETCH_MAX_WAIT_MS)


def _readable(topic: Topic, record: RawRecord) -> list[Envelope[Any]]:
    """Whoever follows live puts an unreadable record aside and goes on; a replay must come to the same."""
    try:
        return [decode(topic, record)]
    except RecordError as error:
        log.warning(
            "leaves out an unreadable record at %s %d/%d: %s", topic.name, record.partition, record.offset, error
        )
        return []
