"""The stores that every contract test runs on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from services.history.stores.mongo import MongoStore
from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from tests.contract.support import RETENTION
from tests.unit.history.fakes import NOW_MS, MemoryStore

STORES = ("memory", "sqlite", "mongodb")
Replica = Callable[[], Awaitable[Store]]


@pytest.fixture(params=STORES)
async def replica(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replica]:
    """Opens another store on the same data, empty at first. Its clock stands at NOW_MS."""
    memory = MemoryStore(RETENTION, lambda: NOW_MS)
    opened: list[Store] = []
    if request.param == "mongodb":
        url = request.getfixturevalue("mongodb").url(f"t{uuid4().hex[:12]}")

    async def another() -> Store:
        made: Store = memory
        if request.param == "sqlite":
            made = SqliteStore(tmp_path / "data" / "history.sqlite3", retention=RETENTION, clock_ms=lambda: NOW_MS)
        if request.param == "mongodb":
            made = MongoStore(url, RETENTION, lambda: NOW_MS)
        opened.append(made)
        await made.open()
        return made

    yield another
    for made in opened:
        await made.close()


@pytest.fixture
async def store(replica: Replica) -> Store:
    """An empty, open store. A new adapter joins the contract by one more line in `replica`."""
    return await replica()
