"""How a gateway leaves: nothing new from now on, what runs goes on for a while, the rest resumes elsewhere."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.errors import ApiError, unavailable

log = logging.getLogger(__name__)


class Drain:
    """`begun`: nothing new is taken. `over`: what still runs must break off, so that its client resumes elsewhere.

    Both are futures, on which ten thousand streams can wait without a task each.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self._work = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def work(self) -> Iterator[None]:
        """A request or a connection that `run` waits for."""
        self._work += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._work -= 1
            if not self._work:
                self._idle.set()

    async def run(self, grace_s: float, hurried: asyncio.Event) -> None:
        """Begin, wait until all work is done, for `grace_s` at most and not once `hurried` is set; then it is over."""
        self.begun.set_result(None)
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, hurried)]
        try:
            await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            self.over.set_result(None)
            if self._work:
                log.info("%d requests and connections are broken off: they can go on at another gateway", self._work)

    def refusal(self) -> ApiError:
        """503 for what comes now; the connection closes, so that the next one finds another gateway."""
        error = unavailable("This gateway is shutting down. Try again.")
        error.headers["connection"] = "close"
        return error
