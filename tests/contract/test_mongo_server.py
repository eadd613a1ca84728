"""The server behind MongoDB's store goes away, comes back, or is no such server."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from deploy.stores import StoreServer
from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.mongo import MIGRATIONS, MongoStore, connect, name_of
from services.history.stores.port import Addition, Conversation
from shared.ids import new_id
from shared.records import Item
from tests.contract.support import an_item, begin, everything, items_of
from tests.unit.history.fakes import NOW_MS, TENANT, an_id, turn


@pytest.fixture
async def store(mongodb: StoreServer) -> AsyncIterator[MongoStore]:
    made = MongoStore(mongodb.url(f"t{uuid4().hex[:12]}"))
    await made.open()
    yield made
    await made.close()


async def test_what_was_written_survives_kills_under_writes_once_and_in_order(mongodb: StoreServer) -> None:
    if not mongodb.controllable:
        pytest.skip("the server at MONGODB_URL is not ours to kill")
    with type(mongodb)() as own:
        store = MongoStore(own.url("killed"))
        await store.open()
        conversation_id = new_id("conv")
        await store.create_conversation(Conversation(conversation_id, TENANT, NOW_MS), [])
        batches = [[an_item(f"{n} {part}") for part in range(3)] for n in range(70)]
        written: list[int] = []
        writing = asyncio.create_task(write_all(store, conversation_id, batches, written))
        for after in (10, 30, 50):
            while len(written) < after:
                await asyncio.sleep(0.005)
            assert not writing.done()
            await asyncio.to_thread(own.kill)
            await asyncio.to_thread(own.restart)
        await writing
        assert await items_of(store, conversation_id) == [item for batch in batches for item in batch]
        await store.close()


async def write_all(store: MongoStore, conversation_id: str, batches: list[list[Item]], written: list[int]) -> None:
    """Each batch again until it is acknowledged; its number is `written` then."""
    for number, batch in enumerate(batches):
        while number not in written:
            try:
                assert await store.add_items(TENANT, conversation_id, batch) is Addition.DONE
                written.append(number)
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def test_a_server_that_is_gone_shows_within_seconds() -> None:
    store = MongoStore("mongodb://user:secret@127.0.0.1:1/chatmesh?serverSelectionTimeoutMS=200")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError) as raised:
        await store.open()
    assert time.monotonic() - begun < 15, "pymongo would look for it for thirty"
    assert "secret" not in str(raised.value)
    await store.close()


async def test_a_wrong_address_ends_the_service_and_tells_no_secret() -> None:
    store = MongoStore("mongodb://user:sec:ret@host:port/x")
    with pytest.raises(StoreError, match="MONGODB_URL") as raised:
        await store.open()
    assert not isinstance(raised.value, StoreUnavailableError)
    assert "ret" not in str(raised.value).replace("retry", "")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mongodb://u:p%40@a:1,b:2/x?replicaSet=r&w=1", "mongodb://a:1,b:2/x"),
        ("mongodb+srv://u:p@cluster.example/x", "mongodb+srv://cluster.example/x"),
        ("mongodb://u:p@ss@a/x", "mongodb://a/x"),
        ("nonsense:secret", "MONGODB_URL"),
    ],
)
def test_a_name_has_no_secrets(url: str, name: str) -> None:
    assert name_of(url) == name


async def test_a_schema_of_a_later_release_is_refused(store: MongoStore, mongodb: StoreServer) -> None:
    client = connect(store._url)
    await client.get_default_database()["schema_migrations"].insert_one({"_id": len(MIGRATIONS) + 1})
    client.close()
    with pytest.raises(StoreError, match=f"version {len(MIGRATIONS) + 1}.*knows {len(MIGRATIONS)}"):
        await store.open()


async def test_what_no_document_can_hold_is_refused_for_good(store: MongoStore) -> None:
    conversation_id = await begin(store)
    with pytest.raises(StoreRefusedError):
        await store.add_items(TENANT, conversation_id, [an_item("x" * 17_000_000)])
    with pytest.raises(StoreRefusedError):
        await store.get(TENANT, "resp_\ud800")
    assert await items_of(store, conversation_id) == []


async def test_a_batch_takes_as_many_round_trips_as_one_response(store: MongoStore) -> None:
    async def trips(count: int) -> int:
        calls = 0
        collection = store._collection

        def counting(name: str) -> object:
            nonlocal calls
            calls += 1
            return collection(name)

        store._collection = counting  # type: ignore[assignment,method-assign]
        conversations = [await begin(store) for _ in range(count)]
        calls = 0
        await store.record([r for c in conversations for r in turn(an_id(), "q", "a", conversation=c)])
        store._collection = collection  # type: ignore[method-assign]
        return calls

    assert await trips(20) == await trips(1) < 20
    assert await trips(50) < 30, "200 changes of responses are two bulk writes"


class Listener(CommandListener):
    """The commands that a client sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, _: CommandSucceededEvent) -> None:
        """Of no interest."""

    def failed(self, _: CommandFailedEvent) -> None:
        """Of no interest."""


async def test_every_write_asks_for_a_majority_and_its_journal_and_reads_see_what_a_majority_has(
    mongodb: StoreServer,
) -> None:
    listener = Listener()
    store = MongoStore(
        mongodb.url(f"t{uuid4().hex[:12]}"),
        connect=lambda url: AsyncIOMotorClient(url, event_listeners=[listener]),
    )
    await store.open()
    await everything(store)
    await store.close()
    writes = [sent for name, sent in listener.sent if name in ("insert", "update", "delete")]
    reads = [sent for name, sent in listener.sent if name == "find"]
    assert len(writes) > 10 and len(reads) > 10
    assert all((sent["writeConcern"]["w"], sent["writeConcern"]["j"]) == ("majority", True) for sent in writes)
    assert all(sent["readConcern"] == {"level": "majority"} for sent in reads)
