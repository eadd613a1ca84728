"""One consumer over a fixed set of partitions, and the streams that live by it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol

from services.gateway.fanout.stream import Stream
from shared.errors import BrokerUnavailableError, RecordError
from shared.log import RawRecord, decode
from shared.telemetry import apart
from shared.topics import EVENTS

log = logging.getLogger(__name__)

_RECONNECT_S = 0.5


class TailPort(Protocol):
    """What a follower needs of `shared.log.Tail`."""

    async def start(self, positions: Mapping[int, int | None]) -> None: ...
    def batches(self) -> AsyncIterator[list[RawRecord]]: ...
    async def stop(self) -> None: ...


PutAside = Callable[[RawRecord, RecordError], None]
OnEnd = Callable[["asyncio.Task[None]"], None]


class Follower:
    """Follows `partitions`; records that no stream here wants are dropped undecoded.

    Streams may be added before it follows anything: it then begins where the first of them has been replayed to.
    `first_offset` is where it began in its partition, None if it has not begun, or at the ends as `start` found them.
    """

    def __init__(
        self, make_tail: Callable[[], TailPort], partitions: frozenset[int], *, buffer_bytes: int, put_aside: PutAside
    ) -> None:
        self.partitions = partitions
        self.streams: dict[str, Stream] = {}
        self.closed = False
        self.first_offset: int | None = None
        self._make_tail = make_tail
        self._tail: TailPort | None = None
        self._buffer_bytes = buffer_bytes
        self._size_bytes = 0
        self._put_aside = put_aside
        self._task: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether it follows its partitions, or is about to."""
        return self._task is not None

    async def start(self, on_end: OnEnd) -> None:
        """When this returns, every later record of the partitions will be seen. `on_end` tells of a failure.

        Raises BrokerUnavailableError.
        """
        self._tail = self._make_tail()
        await self._tail.start(dict.fromkeys(sorted(self.partitions)))
        self._run(self._follow(self._tail), on_end)

    def start_at(self, offset: int, on_end: OnEnd) -> None:
        """See every record of the one partition from `offset` on; connects in its own time, as often as it takes."""
        self.first_offset = offset
        (partition,) = self.partitions
        self._run(self._follow_from(partition, offset), on_end)

    def _run(self, work: Coroutine[Any, Any, None], on_end: OnEnd) -> None:
        self._task = asyncio.create_task(work, name=f"follow {sorted(self.partitions)}", context=apart())
        self._task.add_done_callback(on_end)

    async def stop(self) -> None:
        """Disconnect."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._tail is not None:
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

    async def _follow_from(self, partition: int, offset: int) -> None:
        while True:
            self._tail = self._make_tail()
            try:
                await self._tail.start({partition: offset})
            except BrokerUnavailableError as error:
                # The log keeps what its readers wait for; they were told 200 and stay.
                log.warning("cannot follow partition %d yet: %s", partition, error)
                await asyncio.sleep(_RECONNECT_S)
                continue
            await self._follow(self._tail)

    async def _follow(self, tail: TailPort) -> None:
        async for batch in tail.batches():
            self.dispatch(batch)
