"""The stores that every contract test runs on."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.stores import StoreServer
from deploy.stores.select import server_for_tests, server_trouble
from services.history.stores.mongo import MongoStore
from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from tests.contract.support import RETENTION
from tests.unit.history.fakes import NOW_MS, MemoryStore

STORES = ("memory", "sqlite", "mongodb")
Replica = Callable[[], Awaitable[Store]]


@pytest.fixture(scope="session")
def mongodb() -> Iterator[StoreServer]:
    """A server that speaks MongoDB's protocol, for all tests: each has a database of its own."""
    if (trouble := server_trouble()) is not None:
        pytest.skip(f"no MongoDB here: {trouble}")
    with server_for_tests() as server:
        yield server


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
