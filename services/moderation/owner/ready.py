"""Responses for which a backend has answered, until the owner comes round to them. No I/O."""

import asyncio
from typing import Any

from services.moderation.owner.response import Owned


class Ready:
    """Each response once, however many of its answers came; `wait` until there is one."""

    def __init__(self) -> None:
        self._responses: dict[int, Owned] = {}
        self._any = asyncio.Event()

    def add(self, owned: Owned, done: "asyncio.Future[Any]") -> None:
        """An answer came, unless nobody needed it any more."""
        if not done.cancelled():
            self._responses[id(owned)] = owned
            self._any.set()

    def take(self) -> list[Owned]:
        """Those that there are, in the order of their first answer."""
        taken = list(self._responses.values())
        self._responses.clear()
        self._any.clear()
        return taken

    async def wait(self) -> None:
        """Until `take` has something to give."""
        await self._any.wait()
