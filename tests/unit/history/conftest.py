"""The stores that every contract test runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.history.stores.port import Store
from services.history.stores.sqlite import SqliteStore
from tests.unit.history.fakes import MemoryStore

STORES = ("memory", "sqlite")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty, open store. A new adapter (MongoDB) joins the contract by one more line here."""
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "data" / "history.sqlite3")
    await made.open()
    yield made
    await made.close()
