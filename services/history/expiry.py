"""Forgetting what has expired: history's own sweep, the same over every store.

Every replica sweeps: what two of them find at once is forgotten once. In small steps, so that the recorder, which
writes to the same store, never waits for long.
"""

import asyncio
import logging
from collections.abc import Callable

from services.history.retry import Patience
from services.history.stores.port import Store

log = logging.getLogger(__name__)

EVERY_S = 60.0
STEP = 200
_PAUSE_S = 0.05


class Sweep:
    """Forgets what has expired, at the start and then once a minute. A store that is away is waited for."""

    def __init__(self, store: Store, clock_ms: Callable[[], int], *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._every_s = every_s
        self._patience = Patience("expiry")

    async def run(self) -> None:
        """Until cancelled. Raises StoreError when the store is unusable."""
        while True:
            forgotten = await self.once()
            if forgotten:
                log.info("%d responses and remains of deleted ones have expired and are forgotten", forgotten)
            await asyncio.sleep(self._every_s)

    async def once(self) -> int:
        """Forget all that has expired by now; returns how many."""
        now_ms, total = self._clock_ms(), 0
        while True:
            forgotten = await self._patience.until_available(lambda: self._store.forget_expired(now_ms, STEP))
            total += forgotten
            if forgotten < STEP:
                return total
            await asyncio.sleep(_PAUSE_S)
