"""One response in one dialect: events encoded once, read by any number of cursors."""

from typing import Generic

from services.gateway.projections.dialect import Dialect, E, told
from shared.folds import EventFold
from shared.folds.events import Counted
from shared.ids import ResponseId


class View(Generic[E]):
    """The events so far; an event's index is its sequence number. `base` is that of the oldest one still held.

    A view of a response of which `fold` has counted records already holds nothing of them: their readers refill from
    the log, as those of a trimmed view.
    """

    def __init__(self, dialect: Dialect[E], response_id: ResponseId, fold: EventFold) -> None:
        self._projection = dialect.projection(response_id, fold)
        self.base = sum(len(self._projection.project(record)) for record in told(fold))
        self.size_bytes = 0
        self._events: list[E] = []
        self._times: list[float] = []

    @property
    def end(self) -> int:
        """One more than the last sequence number."""
        return self.base + len(self._events)

    def take(self, counted: Counted, now_s: float) -> int:
        """Project a record that the fold has counted just now; returns by how many bytes the buffer grew."""
        events = self._projection.project(counted)
        grown = sum(len(event.json) for event in events)
        self._events += events
        self._times += [now_s] * len(events)
        self.size_bytes += grown
        return grown

    def trim(self) -> int:
        """Forget the events held: who still needs them refills from the log. Returns the bytes freed."""
        freed = self.size_bytes
        self.base = self.end
        self._events, self._times, self.size_bytes = [], [], 0
        return freed

    def held(self, start: int) -> list[E] | None:
        """The events from sequence number `start` on, None if they are no longer all held."""
        return None if start < self.base else self._events[start - self.base :]

    def arrived_s(self, number: int) -> float | None:
        """When an event arrived (the clock's seconds); None if it is not held or not there yet."""
        return self._times[number - self.base] if self.base <= number < self.end else None
