"""One followed response: a buffer of encoded events, written once, read by any number of cursors.

No I/O and no queues: a connection is a `Cursor`, an index into the buffer. An event's index is its sequence number.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from services.gateway.projections import ClientEvent, ResponsesProjection
from shared.errors import ChatmeshError
from shared.ids import ResponseId
from shared.records import Accepted
from shared.records.codec import Envelope

_CROWD = 8
Clock = Callable[[], float]
Refill = Callable[[ResponseId], Awaitable[list[ClientEvent]]]


class StreamLostError(ChatmeshError):
    """The stream cannot go on here; its reader may resume elsewhere, or at the store."""


class Stream:
    """A response's events so far. `base` is the sequence number of the oldest one still held."""

    def __init__(self, response_id: ResponseId, *, clock: Clock = time.monotonic) -> None:
        self.id = response_id
        self.projection = ResponsesProjection(response_id)
        self.base = 0
        self.size_bytes = 0
        self.readers = 0
        self.counted = False
        """Whether the journal counts this gateway among the response's followers."""
        self._events: list[ClientEvent] = []
        self._times: list[float] = []
        self._clock = clock
        self._next_offset = 0
        self._held_back: list[Envelope[Any]] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._crowd = _CROWD

    @property
    def accepted(self) -> Accepted | None:
        """The response's first public record, once it is there."""
        return self.projection.fold.accepted

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.projection.fold.terminal is not None or self.projection.fold.deleted

    @property
    def end(self) -> int:
        """One more than the last sequence number."""
        return self.base + len(self._events)

    def hold_back(self) -> None:
        """Keep what is followed aside until `prime` has the log's part."""
        self._held_back = []

    def prime(self, records: Iterable[Envelope[Any]], next_offset: int) -> None:
        """Begin with the log's records below `next_offset`, go on with what was held back since."""
        held_back, self._held_back = self._held_back or [], None
        for envelope in records:
            self.take(envelope)
        self._next_offset = max(self._next_offset, next_offset)
        for envelope in held_back:
            self.take(envelope)

    def take(self, envelope: Envelope[Any]) -> int:
        """Project the next record; returns by how many bytes the buffer grew. Records seen before are ignored."""
        if self._held_back is not None:
            self._held_back.append(envelope)
            return 0
        if envelope.offset < self._next_offset:
            return 0
        self._next_offset = envelope.offset + 1
        return self._publish(self.projection.feed(envelope.record))

    def _publish(self, events: list[ClientEvent]) -> int:
        grown = sum(len(event.json) for event in events)
        self._events += events
        self._times += [self._clock()] * len(events)
        self.size_bytes += grown
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return grown

    def trim(self) -> int:
        """Forget the events held: who still needs them refills from the log. Returns the bytes freed."""
        freed = self.size_bytes
        self.base = self.end
        self._events, self._times, self.size_bytes = [], [], 0
        return freed

    def held(self, start: int) -> list[ClientEvent] | None:
        """The events from sequence number `start` on, None if they are no longer all held."""
        return None if start < self.base else self._events[start - self.base :]

    def arrived_s(self, number: int) -> float | None:
        """When an event arrived (the clock's seconds); None if it is not held or not there yet."""
        return self._times[number - self.base] if self.base <= number < self.end else None

    def change(self) -> "asyncio.Future[None]":
        """Await it to sleep until anything was taken after this call (not after the await)."""
        if len(self._waiters) >= self._crowd:  # who left without a word is forgotten here, else by the next record
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
            self._crowd = 2 * len(self._waiters) + _CROWD
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter


class Cursor:
    """One reader's place in a stream; `batch` in a loop, until it returns nothing."""

    def __init__(
        self, stream: Stream, refill: Refill, *, starting_after: int = -1, clock: Clock = time.monotonic
    ) -> None:
        self.stream = stream
        self._next = starting_after + 1
        self._refill = refill
        self._clock = clock
        self._moved_s = clock()

    def lag_s(self) -> float:
        """For how long the reader has kept the oldest event that it has not taken waiting, in seconds.

        A reader that resumes is late from the start: its lag begins with its last step.
        """
        arrived_s = self.stream.arrived_s(self._next)
        if arrived_s is None and self._next >= self.stream.end:
            return 0.0
        return self._clock() - max(self._moved_s, arrived_s or 0.0)

    async def batch(self) -> list[ClientEvent]:
        """The next events, at least one; none once the response ended. Raises StreamLostError, LogError."""
        while self._next >= self.stream.end:
            if self.stream.ended:
                return []
            await self.stream.change()
        events = self.stream.held(self._next)
        if events is None:
            events = await self._refilled()
        self._next += len(events)
        self._moved_s = self._clock()
        return events

    async def _refilled(self) -> list[ClientEvent]:
        """The log gives the same events again, byte for byte (projections are deterministic)."""
        end = self.stream.end
        events = (await self._refill(self.stream.id))[self._next : end]
        if not events:
            raise StreamLostError(f"the log no longer holds the events of {self.stream.id.text}")
        return events
