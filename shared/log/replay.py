"""Finding one response's sub-log by its id alone: time and partition stand in the id (DESIGN 2)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.errors import BrokerUnavailableError, RecordError, ReplayGoneError
from shared.ids import ResponseId
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import RawRecord, decode, raw
from shared.records import Accepted, Requested, Screening
from shared.records.codec import Envelope
from shared.settings import MeshSettings
from shared.topics import Service, Topic, assert_may_consume

log = logging.getLogger(__name__)

_POLL_MS = 1000
_NO_LIMIT = 1 << 62
_FIRST_KINDS = (Requested, Accepted)


@dataclass(frozen=True)
class Replay:
    """The records of one response up to `next_offset`, from which a follower goes on without gap or overlap."""

    records: list[Envelope[Any]]
    next_offset: int


class Replayer:
    """Replays responses one at a time over one connection."""

    def __init__(self, settings: MeshSettings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._consumer = make_consumer(settings)
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailableError."""
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise BrokerUnavailableError(f"cannot reach the broker: {error}") from error

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def replay(
        self, topic: Topic, response_id: ResponseId, *, start: int | None = None, until: int | None = None
    ) -> Replay:
        """All records of the response in `topic`, up to its end now or up to offset `until` (inclusive).

        `start`, where it is known, saves the search by time. An empty list means that the log covers the
        response's time and has nothing of it. Raises ReplayGoneError when retention passed its beginning.
        """
        assert_may_consume(topic, self._service)
        partition = TopicPartition(topic_name(self._settings, topic), response_id.partition)
        async with self._lock, _translated(topic):
            self._consumer.assign([partition])
            begin = (await self._consumer.beginning_offsets([partition]))[partition]
            end, limit = await self._bounds(partition, until)
            if start is not None and start >= begin:
                return Replay(*await self._scan(topic, partition, start, end, limit, {response_id.text.encode()}))
            return await self._search(topic, partition, begin, end, limit, response_id)

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, until: int | None = None
    ) -> Replay:
        """All records of the responses `keys` in one partition, from `since_ms` less the skew margin on.

        One scan for many responses: what an owner needs that takes a partition over. `until` as in `replay`.
        """
        assert_may_consume(topic, self._service)
        where = TopicPartition(topic_name(self._settings, topic), partition)
        wanted = {key.encode() for key in keys}
        async with self._lock, _translated(topic):
            self._consumer.assign([where])
            begin = (await self._consumer.beginning_offsets([where]))[where]
            end, limit = await self._bounds(where, until)
            margin_ms = int(self._settings.skew_margin_s * 1000)
            start = await self._offset_at(where, since_ms - margin_ms, begin, end)
            return Replay(*await self._scan(topic, where, start, end, limit, wanted))

    async def _bounds(self, partition: TopicPartition, until: int | None) -> tuple[int, int]:
        """Where a scan ends for now, and what it must never pass. A given `until` was acknowledged: it exists."""
        if until is not None:
            return until + 1, until + 1
        return (await self._consumer.end_offsets([partition]))[partition], _NO_LIMIT

    async def _search(
        self, topic: Topic, partition: TopicPartition, begin: int, end: int, limit: int, response_id: ResponseId
    ) -> Replay:
        """Seek by time less the skew margin; unless the first record is a first kind, step back, doubling.

        `screening` does not count: an owner marks its epoch even if nothing was accepted before it took over.
        """
        back_ms = int(self._settings.skew_margin_s * 1000)
        while True:
            start = await self._offset_at(partition, response_id.created_ms - back_ms, begin, end)
            records, reached = await self._scan(topic, partition, start, end, limit, {response_id.text.encode()})
            first = next((e.record for e in records if not isinstance(e.record, Screening)), None)
            if isinstance(first, _FIRST_KINDS):
                return Replay(records, reached)
            if start <= begin:
                break
            back_ms = max(1000, back_ms) * 2
        if first is not None or (begin > 0 and await self._older_than_log(partition, response_id, begin, end)):
            raise ReplayGoneError(f"{topic.name} no longer holds the beginning of {response_id.text}")
        return Replay(records, reached)

    async def _offset_at(self, partition: TopicPartition, unix_ms: int, begin: int, end: int) -> int:
        found = (await self._consumer.offsets_for_times({partition: max(0, unix_ms)})).get(partition)
        # None and (0, -1) both mean "past the end" (DESIGN 2).
        if found is None or (found.offset == 0 and found.timestamp == -1):
            return end
        return max(begin, int(found.offset))

    async def _older_than_log(self, partition: TopicPartition, response_id: ResponseId, begin: int, end: int) -> bool:
        margin_ms = int(self._settings.skew_margin_s * 1000)
        return await self._offset_at(partition, response_id.created_ms - margin_ms, begin, end) <= begin

    async def _scan(
        self, topic: Topic, partition: TopicPartition, start: int, end: int, limit: int, wanted: Collection[bytes]
    ) -> tuple[list[Envelope[Any]], int]:
        """The wanted records in [start, end) and the end that was reached.

        The embedded broker's ListOffsets understates the end by up to one batch; the high watermark that comes
        with each fetch is right on every broker, so the scan goes on to it, but never past `limit`.
        """
        records: list[Envelope[Any]] = []
        self._consumer.seek(partition, start)
        while await self._consumer.position(partition) < end:
            found = await self._consumer.getmany(partition, timeout_ms=_POLL_MS)
            for message in found.get(partition, ()):
                if message.offset < limit and message.key in wanted:
                    records += _readable(topic, raw(message))
            end = min(limit, max(end, self._consumer.highwater(partition) or 0))
        return records, end


def _readable(topic: Topic, record: RawRecord) -> list[Envelope[Any]]:
    """Whoever follows live puts an unreadable record aside and goes on; a replay must come to the same."""
    try:
        return [decode(topic, record)]
    except RecordError as error:
        log.warning(
            "leaves out an unreadable record at %s %d/%d: %s", topic.name, record.partition, record.offset, error
        )
        return []


@asynccontextmanager
async def _translated(topic: Topic) -> AsyncIterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise ReplayGoneError(f"{topic.name} no longer holds the wanted offsets: {error}") from error
    except KafkaError as error:
        raise BrokerUnavailableError(f"cannot replay {topic.name}: {type(error).__name__} {error}".rstrip()) from error
