"""What only MongoDB itself can show: skipped on other servers of its protocol (ARCHITECTURE, "Known limits")."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from deploy.stores import StoreServer
from services.history.errors import StoreUnavailableError
from services.history.stores.mongo import MongoStore
from services.history.stores.port import Conversation, Recordable, Recorded, Retention
from tests.contract.support import everything, items_of, some_items
from tests.unit.history.fakes import NOW_MS, TENANT, accepted, an_id, completed

PROFILE_ALL = 2
KEPT = ("responses", "conversations", "items")


@pytest.fixture
def url(mongodb: StoreServer) -> str:
    if not mongodb.real:
        pytest.skip(f"{mongodb.name} keeps no profile, and uses no index but that of _id")
    return mongodb.url(f"t{uuid4().hex[:12]}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[MongoStore]:
    made = MongoStore(url, Retention(response_ms=1_000), lambda: NOW_MS)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def database(url: str) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](url) as client:
        yield client.get_default_database()


async def test_no_operation_reads_a_whole_collection(store: MongoStore, database: Database[dict[str, Any]]) -> None:
    database.command("profile", PROFILE_ALL)
    await everything(store)
    database.command("profile", 0)
    seen = list(database["system.profile"].find({"ns": {"$in": [f"{database.name}.{name}" for name in KEPT]}}))
    assert {entry["ns"].rpartition(".")[2] for entry in seen} == set(KEPT)
    assert [entry["command"] for entry in seen if "COLLSCAN" in entry.get("planSummary", "")] == []


async def test_upserts_that_race_come_to_one(store: MongoStore, url: str) -> None:
    """Two upserts of one id can both find nothing; the loser sees a duplicate key, and asks again."""
    others = [MongoStore(url, Retention(), lambda: NOW_MS) for _ in range(8)]
    await asyncio.gather(*(other.open() for other in others))
    try:
        for _ in range(20):
            response_id, wanted = an_id(), Conversation(f"conv_{uuid4().hex}", TENANT, NOW_MS)
            records = [accepted(response_id), completed(response_id)]
            told = await asyncio.gather(*(until_recorded(other, records) for other in others))
            made = await asyncio.gather(*(other.create_conversation(wanted, some_items(2)) for other in others))
            assert sum(response_id in one.ended for one in told) <= 1
            assert await store.get(TENANT, response_id) is not None
            assert all(one == wanted for one in made)
            assert len(await items_of(store, wanted.id)) == 2
    finally:
        await asyncio.gather(*(other.close() for other in others))


async def until_recorded(store: MongoStore, records: Sequence[Recordable]) -> Recorded:
    """As the recorder does it: what is merely not available now is tried again."""
    for _ in range(50):
        with suppress(StoreUnavailableError):
            return await store.record(records)
    return await store.record(records)
