"""Trying again: what is merely not available now is never skipped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from services.history.errors import StoreUnavailableError
from shared.errors import LogError

log = logging.getLogger(__name__)
T = TypeVar("T")

TRANSIENT = (StoreUnavailableError, LogError)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def pauses_s() -> Iterator[float]:
    """0.1 s, then twice as long each time, up to 5 s."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def until_available(work: Callable[[], Awaitable[T]], what: str) -> T:
    """Do `work` until store and broker answer, however long they are away; other errors pass through."""
    pauses = pauses_s()
    while True:
        try:
            return await work()
        except TRANSIENT as error:
            pause_s = next(pauses)
            log.warning("%s: %s; trying again in %.1f s", what, error, pause_s)
            await asyncio.sleep(pause_s)
