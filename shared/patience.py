"""Trying again: what is merely not available now is never skipped."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from shared.errors import LogError, RecordRefusedError

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def pauses_s() -> Iterator[float]:
    """0.1 s, then twice as long each time, up to 5 s."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class Patience:
    """Waits for one thing that may be away for a while, and says so: one line when it goes, one when it is back.

    `what` is the work's name in the log; `transient`: the errors that say so. Any number of tasks may wait with the
    same patience.
    """

    def __init__(self, what: str, *, transient: tuple[type[Exception], ...] = (LogError,)) -> None:
        self._what = what
        self._transient = transient
        self._away_since_s: float | None = None

    async def until_available(self, work: Callable[[], Awaitable[T]], *, timeout_s: float = math.inf) -> T:
        """Do `work` until what it needs answers, however long that is away; other errors pass through, and so does a
        record that the broker will never take.

        Where `timeout_s` is given, what `work` raises after so many seconds is raised.
        """
        give_up_at_s = _clock_s() + timeout_s
        pauses = pauses_s()
        while True:
            try:
                result = await work()
            except RecordRefusedError:
                raise
            except self._transient as error:
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
