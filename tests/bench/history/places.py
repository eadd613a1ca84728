"""Where history keeps what it stores: the embedded file, or a server; each can be stopped while a mesh runs on it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from deploy.stores import StoreServer
from deploy.stores.select import MONGODB, SQLITE, server_for_tests
from services.history.stores.mongo import MongoStore
from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from tests.support.history import locked

Outage = Callable[[Path], AbstractAsyncContextManager[None]]
_FILE = "history.sqlite3"


@dataclass(frozen=True)
class Place:
    """`store` makes one that nobody else uses, in a folder; `env` sends a mesh's history to another.

    `outage` stops what a mesh with this data folder stores to; None where the server is not ours to stop.
    """

    name: str
    store: Callable[[Path], Store]
    env: Mapping[str, str]
    outage: Outage | None

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Store]:
        """An empty store, closed at the end."""
        store = self.store(folder)
        await store.open()
        try:
            yield store
        finally:
            await store.close()


@contextmanager
def place(name: str) -> Iterator[Place]:
    """Ready to be used inside the block. Raises StoreServerError."""
    if name == SQLITE:
        yield Place("SQLite", lambda folder: SqliteStore(folder / _FILE), {"MONGODB_URL": ""}, _locked)
        return
    with server_for_tests() as server:
        yield Place(
            f"MongoDB ({server.name})",
            lambda _: MongoStore(server.url(_database())),
            {"MONGODB_URL": server.url(_database())},
            (lambda _: _killed(server)) if server.controllable else None,
        )


def default_places(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The embedded one, and a server where one is named."""
    return [SQLITE, MONGODB] if environment.get("MONGODB_URL") else [SQLITE]


def _database() -> str:
    return f"bench{uuid4().hex[:12]}"


def _locked(data: Path) -> AbstractAsyncContextManager[None]:
    return locked(data / _FILE)


@asynccontextmanager
async def _killed(server: StoreServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(server.restart)
