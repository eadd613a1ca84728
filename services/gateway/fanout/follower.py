"""One consumer over a fixed set of partitions, and the streams that live by it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from services.gateway.fanout.stream import Stream
from shared.errors import RecordError
from shared.log import RawRecord, decode
from shared.topics import EVENTS

log = logging.getLogger(__name__)


class TailPort(Protocol):
    """What a follower needs of `shared.log.Tail`."""

    async def start(self, positions: Mapping[int, int | None]) -> None: ...
    def batches(self) -> AsyncIterator[list[RawRecord]]: ...
    async def stop(self) -> None: ...


PutAside = Callable[[RawRecord, RecordError], None]


class Follower:
    """Follows `partitions` from their ends at `start`. Records that no stream here wants are dropped undecoded."""

    def __init__(self, tail: TailPort, partitions: frozenset[int], *, buffer_bytes: int, put_aside: PutAside) -> None:
        self.partitions = partitions
        self.streams: dict[str, Stream] = {}
        self.closed = False
        self._tail = tail
        self._buffer_bytes = buffer_bytes
        self._size_bytes = 0
        self._put_aside = put_aside
        self._task: asyncio.Task[None] | None = None

    async def start(self, on_end: Callable[["asyncio.Task[None]"], None]) -> None:
        """When this returns, every later record of the partitions will be seen. `on_end` tells of a failure."""
        await self._tail.start(dict.fromkeys(sorted(self.partitions)))
        self._task = asyncio.create_task(self._follow(), name=f"follow {sorted(self.partitions)}")
        self._task.add_done_callback(on_end)

    async def stop(self) -> None:
        """Disconnect."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._tail.stop()

    def add(self, stream: Stream) -> None:
        """Give the stream its records from now on."""
        self.streams[stream.id.text] = stream

    def remove(self, stream: Stream) -> None:
        """Forget the stream and its buffer."""
        if self.streams.pop(stream.id.text, None) is not None:
            self._size_bytes -= stream.size_bytes

    def grew(self, by_bytes: int) -> None:
        """Account for bytes that a stream took; keep the bound by trimming the largest buffers."""
        self._size_bytes += by_bytes
        while self._size_bytes > self._buffer_bytes:
            largest = max(self.streams.values(), key=lambda stream: stream.size_bytes)
            if largest.size_bytes == 0:
                break
            self._size_bytes -= largest.trim()

    def dispatch(self, batch: list[RawRecord]) -> None:
        """Hand records to their streams; what cannot be read is put aside and blocks nothing (DESIGN 8.6)."""
        for record in batch:
            stream = self.streams.get(record.key)
            if stream is None:
                continue
            try:
                envelope = decode(EVENTS, record)
            except RecordError as error:
                self._put_aside(record, error)
                continue
            self.grew(stream.take(envelope))

    async def _follow(self) -> None:
        async for batch in self._tail.batches():
            self.dispatch(batch)
