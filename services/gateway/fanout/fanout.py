"""Who follows what: one follower over the home partitions, one per foreign partition that somebody reads.

A stream belongs to exactly one follower for its whole life, so that two consumers never hand it records out of order.
What is asked for in a foreign partition is replayed first; its follower begins where that replay ended, so that a
client waits for no consumer to connect, and ids that lead nowhere cost none.
When homes change, a second follower starts there and new ids are minted there; the first one retires with its last
stream.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import cycle
from types import TracebackType
from typing import Any, Protocol, Self

from services.gateway.fanout.follower import Follower, PutAside, TailPort
from services.gateway.fanout.homes import home_partitions
from services.gateway.fanout.stream import Cursor, Stream
from services.gateway.projections import RESPONSES, ClientEvent, Dialect
from services.gateway.projections.dialect import E
from shared.folds import EventFold
from shared.futures import error_of
from shared.ids import ResponseId
from shared.log import Replay

log = logging.getLogger(__name__)

ReplayLog = Callable[[ResponseId], Awaitable[Replay]]


class Presence(Protocol):
    """Tells the journal of this gateway's first and last reader of a response."""

    def attached(self, response_id: ResponseId) -> None: ...
    def detached(self, response_id: ResponseId) -> None: ...


class Lease:
    """One reader's hold on a stream, as a context manager: the last one that leaves releases it.

    `opened`: it began with the stream, for a request that is new; the others came to one that was there.
    """

    def __init__(self, fanout: "Fanout", follower: Follower, stream: Stream, *, opened: bool = False) -> None:
        self.stream = stream
        self.opened = opened
        self._fanout = fanout
        self._follower = follower
        self._held = True
        stream.readers += 1

    def cursor(self, starting_after: int = -1) -> Cursor[ClientEvent]:
        """Read the Responses API's events from behind that sequence number."""
        return self.cursor_in(RESPONSES, starting_after)

    def cursor_in(self, dialect: Dialect[E], starting_after: int = -1) -> Cursor[E]:
        """The same in any dialect."""
        refill = partial(self._fanout.replayed_events, dialect)
        return Cursor(self.stream, dialect, refill, starting_after=starting_after)

    def follow_beyond_the_end(self) -> None:
        """See also what comes after the response's end: its deletion."""
        self._fanout.follow_beyond_the_end(self._follower, self.stream)

    def share(self) -> "Lease":
        """One more hold on the same stream."""
        return Lease(self._fanout, self._follower, self.stream)

    def release(self) -> None:
        """Leave; a second call does nothing."""
        if self._held:
            self._held = False
            self.stream.readers -= 1
            self._fanout.left(self._follower, self.stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Fanout:
    """The streams of this gateway."""

    def __init__(
        self,
        gateway_id: str,
        partitions: int,
        *,
        make_tail: Callable[[], TailPort],
        replay: ReplayLog,
        presence: Presence,
        put_aside: PutAside,
        buffer_bytes: int,
    ) -> None:
        self._gateway_id = gateway_id
        self._partitions = partitions
        self._make_tail = make_tail
        self._replay = replay
        self._presence = presence
        self._put_aside = put_aside
        self._buffer_bytes = buffer_bytes
        self._streams: dict[str, tuple[Follower, Stream]] = {}
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._home: Follower | None = None
        self._mint = cycle([0])
        self._foreign: dict[int, Follower] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def followed(self) -> int:
        """How many responses it holds."""
        return len(self._streams)

    @property
    def home(self) -> frozenset[int]:
        """The partitions in which new ids are minted; empty before the first `rehome`."""
        return frozenset() if self._home is None else self._home.partitions

    async def rehome(self, gateways: Collection[str]) -> bool:
        """Move to the home partitions among the living `gateways`; True if they changed. Raises LogError."""
        wanted = home_partitions(self._gateway_id, gateways, self._partitions)
        if wanted == self.home:
            return False
        follower = self._follower(wanted)
        try:
            await follower.start(self._ended)
        except BaseException:
            await follower.stop()  # a shutdown may come while it connects
            raise
        retired, self._home = self._home, follower
        self._mint = cycle(sorted(wanted))
        if retired is not None:
            self._close_if_idle(retired)
        log.info("home partitions: %s", sorted(wanted))
        return True

    async def failed(self) -> None:
        """Return never; raises what ended a follower."""
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Disconnect every follower."""
        for task in self._catching_up.values():
            task.cancel()
        followers = {follower for follower, _ in self._streams.values()} | set(self._foreign.values())
        if self._home is not None:
            followers.add(self._home)
        await asyncio.gather(*(follower.stop() for follower in followers), return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def next_partition(self) -> int:
        """Where to mint the next id: the home partitions in turn."""
        return next(self._mint)

    def open(self, response_id: ResponseId, dialect: Dialect[Any] | None = RESPONSES) -> Lease:
        """Follow a response that this gateway is about to request: its id was minted in a home partition.

        `dialect`: in which it will be read as it comes; None for one that is wanted whole.
        """
        assert self._home is not None and response_id.partition in self._home.partitions
        return self._lease(self._home, Stream(response_id, dialect), opened=True)

    def find(self, response_id: ResponseId) -> Stream | None:
        """The response's stream if somebody here follows it and it is up to date.

        One that has ended is not: nobody follows what comes after, and it may have been deleted.
        """
        found = self._streams.get(response_id.text)
        return None if found is None or response_id.text in self._catching_up or found[1].ended else found[1]

    async def attach(self, response_id: ResponseId) -> Lease | None:
        """Follow a response from its beginning, also a deleted one: by the buffer, or by replay and then live.

        None: the log has none.

        Raises ReplayGoneError when retention passed its beginning, another LogError when the log does not answer,
        AccessDeniedError.
        """
        lease = self._joined(response_id)
        try:
            catching_up = self._catching_up.get(response_id.text)
            if catching_up is not None:
                await asyncio.shield(catching_up)
            elif lease.stream.ended:
                await self._look_again(lease.stream)
        except BaseException:
            lease.release()
            raise
        if lease.stream.accepted is None and not lease.stream.fold.deleted:
            lease.release()
            return None
        return lease

    async def replayed_events(self, dialect: Dialect[E], response_id: ResponseId) -> list[E]:
        """All events of a response so far, from the log."""
        fold = EventFold()
        projection = dialect.projection(response_id, fold)
        replay = await self._replay(response_id)
        counted = (fold.apply(envelope.record) for envelope in replay.records)
        return [event for record in counted if record is not None for event in projection.project(record)]

    def left(self, follower: Follower, stream: Stream) -> None:
        """A reader left the stream; the last one takes it away."""
        if stream.readers:
            return
        follower.remove(stream)
        self._streams.pop(stream.id.text, None)
        if stream.counted and not stream.ended:
            self._presence.detached(stream.id)
        self._close_if_idle(follower)

    def _lease(self, follower: Follower, stream: Stream, *, opened: bool = False) -> Lease:
        follower.add(stream)
        self._streams[stream.id.text] = (follower, stream)
        return Lease(self, follower, stream, opened=opened)

    def _joined(self, response_id: ResponseId) -> Lease:
        if response_id.text in self._streams:
            return Lease(self, *self._streams[response_id.text])
        return self._caught_up(self._follower_of(response_id.partition), response_id)

    def _caught_up(self, follower: Follower, response_id: ResponseId) -> Lease:
        stream = Stream(response_id)
        stream.hold_back()
        lease = self._lease(follower, stream)
        # Before the log is read, which takes a while when thousands resume: the grace must not run out meanwhile.
        stream.counted = True
        self._presence.attached(stream.id)
        task = asyncio.create_task(self._catch_up(follower, stream), name=f"catch up {response_id.text}")
        self._catching_up[response_id.text] = task
        task.add_done_callback(lambda done: self._caught_up_with(response_id, done))
        return lease

    def _caught_up_with(self, response_id: ResponseId, done: "asyncio.Task[None]") -> None:
        # A later reader may have begun anew meanwhile: its task is not ours to forget.
        if self._catching_up.get(response_id.text) is done:
            del self._catching_up[response_id.text]

    async def _catch_up(self, follower: Follower, stream: Stream) -> None:
        """The log's end was read after the stream was registered: nothing falls between replay and live."""
        replay = await self._replay(stream.id)
        while follower.first_offset is not None and replay.next_offset < follower.first_offset:
            # Another stream's replay ended later and was done sooner: the follower began there.
            replay = await self._replay(stream.id)
        if not stream.readers:
            return
        stream.prime(replay.records, replay.next_offset)
        follower.grew(stream.size_bytes)
        if stream.accepted is None or stream.ended:
            return
        if not follower.begun:
            follower.start_at(replay.next_offset, self._ended)
        stream.counted = not stream.accepted.spec.background

    async def _look_again(self, stream: Stream) -> None:
        """Whether a response that had ended was deleted since: its stream may follow nothing any more."""
        replay = await self._replay(stream.id)
        stream.prime(replay.records, replay.next_offset)

    def follow_beyond_the_end(self, follower: Follower, stream: Stream) -> None:
        """Let the stream see every record that is appended after this call, even if all it had to say is said."""
        if not follower.begun:
            follower.start_at(stream.next_offset, self._ended)

    def _follower_of(self, partition: int) -> Follower:
        if self._home is not None and partition in self._home.partitions:
            return self._home
        if partition not in self._foreign:
            self._foreign[partition] = self._follower(frozenset({partition}))
        return self._foreign[partition]

    def _follower(self, partitions: frozenset[int]) -> Follower:
        return Follower(self._make_tail, partitions, buffer_bytes=self._buffer_bytes, put_aside=self._put_aside)

    def _close_if_idle(self, follower: Follower) -> None:
        if follower is self._home or follower.streams or follower.closed:
            return
        follower.closed = True
        self._foreign = {number: other for number, other in self._foreign.items() if other is not follower}
        task = asyncio.create_task(follower.stop(), name=f"retire {sorted(follower.partitions)}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = error_of(task)
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)
