"""One followed response: its fold, and a buffer of encoded events per dialect in which it is read.

No I/O and no queues: a connection is a `Cursor`, an index into a buffer. An event's index is its sequence number.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, cast

from services.gateway.fanout.view import View
from services.gateway.projections import RESPONSES, Dialect
from services.gateway.projections.dialect import E
from shared.errors import ChatmeshError
from shared.folds import EventFold
from shared.ids import ResponseId
from shared.records import Accepted
from shared.records.codec import Envelope

_CROWD = 8
Clock = Callable[[], float]
Refill = Callable[[ResponseId], Awaitable[list[E]]]


class StreamLostError(ChatmeshError):
    """The stream cannot go on here; its reader may resume elsewhere, or at the store."""


class Stream:
    """A response so far, told in `dialect` from its first record on (None: in none as yet)."""

    def __init__(
        self,
        response_id: ResponseId,
        dialect: Dialect[Any] | None = RESPONSES,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self.id = response_id
        self.fold = EventFold()
        self.readers = 0
        self.counted = False
        """Whether the journal counts this gateway among the response's followers."""
        self._views: dict[Dialect[Any], View[Any]] = {}
        self._clock = clock
        self.origin: Mapping[str, str] = {}
        """The trace in which it was accepted; empty if nobody traced it."""
        self.next_offset = 0
        """Behind the last record that was seen."""
        self._held_back: list[Envelope[Any]] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._crowd = _CROWD
        if dialect is not None:
            self.view(dialect)

    @property
    def accepted(self) -> Accepted | None:
        """The response's first public record, once it is there."""
        return self.fold.accepted

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.fold.terminal is not None or self.fold.deleted

    @property
    def size_bytes(self) -> int:
        """What all buffers hold."""
        return sum(view.size_bytes for view in self._views.values())

    def view(self, dialect: Dialect[E]) -> View[E]:
        """The response in `dialect`, from now on encoded as it comes."""
        view = self._views.get(dialect)
        if view is None:
            view = self._views[dialect] = View(dialect, self.id, self.fold)
        return cast("View[E]", view)

    def hold_back(self) -> None:
        """Keep what is followed aside until `prime` has the log's part."""
        self._held_back = []

    def prime(self, records: Iterable[Envelope[Any]], next_offset: int) -> None:
        """Begin with the log's records below `next_offset`, go on with what was held back since."""
        held_back, self._held_back = self._held_back or [], None
        for envelope in records:
            self.take(envelope)
        self.next_offset = max(self.next_offset, next_offset)
        for envelope in held_back:
            self.take(envelope)

    def take(self, envelope: Envelope[Any]) -> int:
        """Project the next record; returns by how many bytes the buffers grew. Records seen before are ignored."""
        if self._held_back is not None:
            self._held_back.append(envelope)
            return 0
        if envelope.offset < self.next_offset:
            return 0
        self.next_offset = envelope.offset + 1
        self.origin = self.origin or envelope.trace
        counted, grown = self.fold.apply(envelope.record), 0
        if counted is not None:
            now_s = self._clock()
            for view in self._views.values():
                grown += view.take(counted, now_s)
        if self._waiters:
            self._wake()
        return grown

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def trim(self) -> int:
        """Forget the events held: who still needs them refills from the log. Returns the bytes freed."""
        return sum(view.trim() for view in self._views.values())

    def change(self) -> "asyncio.Future[None]":
        """Await it to sleep until anything was taken after this call (not after the await)."""
        if len(self._waiters) >= self._crowd:  # who left without a word is forgotten here, else by the next record
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
            self._crowd = 2 * len(self._waiters) + _CROWD
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter


class Cursor(Generic[E]):
    """One reader's place in a stream, in one dialect; `batch` in a loop, until it returns nothing."""

    def __init__(
        self,
        stream: Stream,
        dialect: Dialect[E],
        refill: Refill[E],
        *,
        starting_after: int = -1,
        clock: Clock = time.monotonic,
    ) -> None:
        self.stream = stream
        self._view = stream.view(dialect)
        self._next = starting_after + 1
        self._refill = refill
        self._clock = clock
        self._moved_s = clock()

    def lag_s(self) -> float:
        """For how long the reader has kept the oldest event that it has not taken waiting, in seconds.

        A reader that resumes is late from the start: its lag begins with its last step.
        """
        arrived_s = self._view.arrived_s(self._next)
        if arrived_s is None and self._next >= self._view.end:
            return 0.0
        return self._clock() - max(self._moved_s, arrived_s or 0.0)

    async def batch(self) -> list[E]:
        """The next events, at least one; none once the response ended. Raises StreamLostError, LogError,
        AccessDeniedError."""
        while self._next >= self._view.end:
            if self.stream.ended:
                return []
            await self.stream.change()
        events = self._view.held(self._next)
        if events is None:
            events = await self._refilled()
        self._next += len(events)
        self._moved_s = self._clock()
        return events

    async def _refilled(self) -> list[E]:
        """The log gives the same events again, byte for byte (projections are deterministic)."""
        end = self._view.end
        events = (await self._refill(self.stream.id))[self._next : end]
        if not events:
            raise StreamLostError(f"the log no longer holds the events of {self.stream.id.text}")
        return events
