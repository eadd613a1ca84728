"""Nothing of a response is public before the verdict on it stands in the log (DESIGN 8.2).

Verdicts and events are different partitions, so that to send the one first is not enough: an owner may die when only
the other has landed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from services.moderation.owner.appends import succeeded
from shared.log import Appended
from shared.records import Events

Trace = Mapping[str, str] | None
Publish = Callable[[Events, Trace], "asyncio.Future[Appended]"]

BEFORE_ANY_TEXT = -1
"""How far the text of a response is judged whose input is not."""


class _Waiting(NamedTuple):
    event: Events
    judged_to: int
    trace: Trace
    published: "asyncio.Future[Appended]"


class Gate:
    """The events of one response, in order. `judged_to`: how far its raw text is judged already.

    `publish` appends an event; `is_open` says whether we may: not where an append failed.
    """

    def __init__(self, publish: Publish, is_open: Callable[[], bool], judged_to: int = BEFORE_ANY_TEXT) -> None:
        self._publish = publish
        self._is_open = is_open
        self._judged_to = judged_to
        self._verdicts: deque[tuple[int, asyncio.Future[Appended]]] = deque()
        self._events: deque[_Waiting] = deque()
        self._shut = False

    def judged(self, up_to: int, verdict: "asyncio.Future[Appended]") -> None:
        """The text up to here is judged, once the append of its verdict is acknowledged."""
        self._verdicts.append((up_to, verdict))
        if not verdict.done():
            verdict.add_done_callback(lambda _: self._let_out())

    def pass_through(self, event: Events, judged_to: int, trace: Trace = None) -> "asyncio.Future[Appended]":
        """Publish the event behind those before it, once the text up to `judged_to` is judged. The future comes true
        when the event is acknowledged."""
        self._see_verdicts()
        if not self._events and judged_to <= self._judged_to:
            return self._publish(event, trace)
        published: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._events.append(_Waiting(event, judged_to, trace, published))
        self._let_out()
        return published

    def shut(self) -> None:
        """The response is another owner's: what still waits is that one's to say."""
        self._shut = True
        self._events.clear()

    def _let_out(self) -> None:
        self._see_verdicts()
        while self._events and self._events[0].judged_to <= self._judged_to and self._is_open() and not self._shut:
            waiting = self._events.popleft()
            _tell(waiting.published, self._publish(waiting.event, waiting.trace))

    def _see_verdicts(self) -> None:
        while self._verdicts and succeeded(self._verdicts[0][1]):
            self._judged_to = max(self._judged_to, self._verdicts.popleft()[0])


def _tell(published: "asyncio.Future[Appended]", append: "asyncio.Future[Appended]") -> None:
    """A failed append is told by nobody: its partition is taken over anew, and the response with it."""

    def tell(done: "asyncio.Future[Appended]") -> None:
        if succeeded(done):
            published.set_result(done.result())

    append.add_done_callback(tell)
