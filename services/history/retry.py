"""Trying again: what is merely not available now is never skipped."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from services.history.errors import StoreUnavailableError
from shared.errors import LogError, RecordRefusedError

log = logging.getLogger(__name__)
T = TypeVar("T")

TRANSIENT = (StoreUnavailableError, LogError)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 0.25

MOST_WAITING = 16
"""For the same response or conversation: the places of all who ask are few, and one client could take them all."""


def pauses_s() -> Iterator[float]:
    """0.1 s, then twice as long each time, up to 5 s."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class Queues:
    """Who waits for what: at most `most` for the same, and who comes to a full queue looks only once."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._waiting: Counter[str] = Counter()

    async def looks(self, subject: str, clock_ms: Callable[[], int], until_ms: int) -> AsyncIterator[int]:
        """0, 1, 2 and so on, ever more seldom, for `subject`, which is looked at until it has changed; the last at
        `until_ms`."""
        pause_s, look = _FIRST_POLL_S, 0
        while True:
            yield look
            remaining_s = (until_ms - clock_ms()) / 1000
            if remaining_s <= 0 or self._waiting[subject] >= self._most:
                return
            await self._wait(subject, min(pause_s, remaining_s))
            pause_s, look = min(pause_s * 2, _LONGEST_POLL_S), look + 1

    async def _wait(self, subject: str, pause_s: float) -> None:
        self._waiting[subject] += 1
        try:
            await asyncio.sleep(pause_s)
        finally:
            self._waiting[subject] -= 1
            if not self._waiting[subject]:
                del self._waiting[subject]


class Patience:
    """Waits for one thing that may be away for a while, and says so: one line when it goes, one when it is back.

    `what` is the work's name in the log. Any number of tasks may wait with the same patience.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._away_since_s: float | None = None

    async def until_available(self, work: Callable[[], Awaitable[T]], *, timeout_s: float = math.inf) -> T:
        """Do `work` until store and broker answer, however long they are away; other errors pass through, and so does
        a record that the broker will never take.

        Where `timeout_s` is given, what `work` raises after so many seconds is raised.
        """
        give_up_at_s = _clock_s() + timeout_s
        pauses = pauses_s()
        while True:
            try:
                result = await work()
            except RecordRefusedError:
                raise
            except TRANSIENT as error:
                pause_s = next(pauses)
                if _clock_s() + pause_s > give_up_at_s:
                    raise
                self._fails(error)
                await asyncio.sleep(pause_s)
            else:
                self._answers()
                return result

    def _fails(self, error: Exception) -> None:
        first = self._away_since_s is None
        self._away_since_s = _clock_s() if self._away_since_s is None else self._away_since_s
        log.log(logging.WARNING if first else logging.DEBUG, "%s waits, trying again: %s", self._what, error)

    def _answers(self) -> None:
        if self._away_since_s is not None:
            log.info("%s goes on after %.1f s", self._what, _clock_s() - self._away_since_s)
            self._away_since_s = None


def _clock_s() -> float:
    return asyncio.get_running_loop().time()
