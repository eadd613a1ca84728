"""Trying again: what is merely not available now is never skipped."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

from services.history.errors import StoreUnavailableError
from shared import patience
from shared.errors import LogError

TRANSIENT = (StoreUnavailableError, LogError)
_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 0.25

MOST_WAITING = 16
"""For the same response or conversation: the places of all who ask are few, and one client could take them all."""


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


class Patience(patience.Patience):
    """Waits for the store as well as for the broker."""

    def __init__(self, what: str) -> None:
        super().__init__(what, transient=TRANSIENT)
