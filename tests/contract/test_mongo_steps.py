"""MongoDB has no transactions here: whatever takes several commands is stopped, or overtaken, before each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from deploy.stores import StoreServer
from services.history.stores.mongo import Client, MongoStore, connect
from services.history.stores.port import Addition, Conversation, ItemPage, Store
from shared.ids import new_id
from shared.records import Deleted, Item
from tests.contract.support import RETENTION, an_item, holder, said, some_items
from tests.support.mongo_steps import Step, Stopped, stepwise, stops_before
from tests.unit.history.fakes import NOW_MS, TENANT, an_id, turn

_MOST_COMMANDS = 60


@dataclass
class Scene:
    """A conversation with one item, whose lock a response holds, and one more that ended in it before."""

    conversation_id: str
    response_id: str
    earlier_id: str
    earlier: list[Item]
    new: list[Item]


@dataclass(frozen=True)
class Seen:
    """What readers see of a scene: the texts, whether the lock is held, and which responses there are."""

    texts: list[str] | None
    locked: bool
    ended: bool
    earlier: bool


Operation = Callable[[Store, Scene], Awaitable[object]]


@dataclass
class Database:
    """One client of a database of its own, with the indexes made; stores on it take steps of their own."""

    url: str
    client: Client
    store: MongoStore

    async def stepping(self, step: Step) -> MongoStore:
        made = MongoStore(self.url, RETENTION, lambda: NOW_MS, connect=stepwise(self.client, step))
        made.connect()
        return made

    async def content(self, scene: Scene) -> int:
        """How many documents hold text of the scene."""
        database = self.client.get_default_database()
        text = {"$or": [{"accepted": {"$exists": True}}, {"terminal": {"$exists": True}}]}
        responses = await database["responses"].find({"conversation": scene.conversation_id, **text}).to_list(10)
        items = {"conversation": scene.conversation_id, "data": {"$exists": True}}
        return len(responses) + len(await database["items"].find(items).to_list(10))


@pytest.fixture
async def database(mongodb: StoreServer) -> AsyncIterator[Database]:
    url = mongodb.url(f"t{uuid4().hex[:12]}")
    client = connect(url)
    store = MongoStore(url, RETENTION, lambda: NOW_MS, connect=lambda _: client)
    await store.open()
    yield Database(url, client, store)
    await store.close()


async def a_scene(store: Store, *, locked: bool = False, earlier: bool = True) -> Scene:
    conversation_id = new_id("conv")
    await store.create_conversation(Conversation(conversation_id, TENANT, NOW_MS), [an_item("first")])
    earlier_id = await said(store, conversation_id, "earlier q", "earlier a") if earlier else an_id()
    page = await store.items(TENANT, conversation_id, limit=10, order="asc")
    assert isinstance(page, ItemPage)
    scene = Scene(conversation_id, an_id(), earlier_id, page.items[1:], some_items(3))
    if locked:
        await store.lock(TENANT, conversation_id, holder(scene.response_id))
    return scene


async def look(store: Store, scene: Scene) -> Seen:
    ended, earlier = [await store.get(TENANT, i) is not None for i in (scene.response_id, scene.earlier_id)]
    found = await store.conversation(TENANT, scene.conversation_id)
    page = await store.items(TENANT, scene.conversation_id, limit=100, order="asc")
    texts = [item.message.text for item in page.items] if isinstance(page, ItemPage) else None
    return Seen(texts, locked=found is not None and found.holder is not None, ended=ended, earlier=earlier)


async def add(store: Store, scene: Scene) -> object:
    return await store.add_items(TENANT, scene.conversation_id, scene.new)


async def end(store: Store, scene: Scene) -> object:
    return await store.record(turn(scene.response_id, "q", "a", conversation=scene.conversation_id))


async def delete_earlier(store: Store, scene: Scene) -> object:
    return await store.record([Deleted(response_id=scene.earlier_id, tenant=TENANT)])


async def erase_item(store: Store, scene: Scene) -> object:
    return await store.erase_item(TENANT, scene.conversation_id, scene.earlier[0].id)


async def erase_conversation(store: Store, scene: Scene) -> object:
    return await store.erase_conversation(TENANT, scene.conversation_id)


async def delete_new(store: Store, scene: Scene) -> object:
    return await store.record([Deleted(response_id=scene.response_id, tenant=TENANT)])


BEGUN = ["first", "earlier q", "earlier a"]
ADDED = ["item 0", "item 1", "item 2"]
SAID = ["q", "a"]
# What is seen before the command that decides, and from then on.
WHOLE: dict[Operation, tuple[Seen, Seen]] = {
    add: (Seen(["first"], False, False, False), Seen(["first", *ADDED], False, False, False)),
    end: (Seen(["first"], True, False, False), Seen(["first", *SAID], False, True, False)),
}
DELETED: dict[Operation, Seen] = {
    delete_earlier: Seen(["first"], False, False, False),
    erase_item: Seen(["first", "earlier a"], False, False, False),
    erase_conversation: Seen(None, False, False, False),
}
# Each waits before each of its commands in turn, while the other one does all that it has to do.
OVERTAKEN: list[tuple[Operation, Operation]] = [
    (add, add),
    (add, erase_conversation),
    (end, end),
    (end, delete_new),
    (end, erase_conversation),
    (delete_new, end),
    (erase_conversation, add),
    (erase_conversation, end),
]


async def stopped_everywhere(database: Database, operation: Operation, **of_scene: bool) -> AsyncIterator[Scene]:
    """Scenes in which the operation was stopped before each of its commands, until it needs no more of them."""
    for command in range(_MOST_COMMANDS):
        scene = await a_scene(database.store, **of_scene)
        try:
            await operation(await database.stepping(stops_before(command)), scene)
            return
        except Stopped:
            yield scene
    raise AssertionError(f"more than {_MOST_COMMANDS} commands")


@pytest.mark.parametrize("operation", WHOLE, ids=lambda operation: operation.__name__)
async def test_what_is_stopped_anywhere_is_seen_whole_or_not(operation: Operation, database: Database) -> None:
    before, after = WHOLE[operation]
    seen = []
    async for scene in stopped_everywhere(database, operation, locked=before.locked, earlier=False):
        seen.append(await look(database.store, scene))
    decides = seen.index(after)
    assert 0 < decides < len(seen) - 1, "commands come before and after the one that decides"
    assert seen == [before] * decides + [after] * (len(seen) - decides)


@pytest.mark.parametrize("operation", WHOLE, ids=lambda operation: operation.__name__)
async def test_what_is_stopped_anywhere_comes_to_the_same_when_it_is_done_again(
    operation: Operation, database: Database
) -> None:
    before, after = WHOLE[operation]
    async for scene in stopped_everywhere(database, operation, locked=before.locked, earlier=False):
        await operation(database.store, scene)
        assert await look(database.store, scene) == after


@pytest.mark.parametrize("operation", DELETED, ids=lambda operation: operation.__name__)
async def test_a_deletion_that_is_stopped_anywhere_is_finished_when_it_is_asked_again(
    operation: Operation, database: Database
) -> None:
    stops = 0
    async for scene in stopped_everywhere(database, operation):
        stops += 1
        await operation(database.store, scene)
        assert await look(database.store, scene) == DELETED[operation]
    assert stops > 1


async def overtaken(database: Database, slow: Operation, quick: Operation, command: int, scene: Scene) -> bool:
    """Let `quick` do its work while `slow` waits before this command; False if it does not come there."""
    waits, goes_on = asyncio.Event(), asyncio.Event()
    commands = 0

    async def step() -> None:
        nonlocal commands
        commands += 1
        if commands == command + 1:
            waits.set()
            await goes_on.wait()

    async def overtake() -> None:
        await waits.wait()
        await quick(database.store, scene)
        goes_on.set()

    adapter = await database.stepping(step)
    async with asyncio.TaskGroup() as both:
        overtaking = both.create_task(overtake())
        await slow(adapter, scene)
        if not waits.is_set():
            overtaking.cancel()
    return waits.is_set()


@pytest.mark.parametrize(("slow", "quick"), OVERTAKEN, ids=lambda operation: operation.__name__)
async def test_who_is_overtaken_anywhere_loses_nothing_and_brings_nothing_back(
    slow: Operation, quick: Operation, database: Database
) -> None:
    pair = {slow, quick}
    for command in range(_MOST_COMMANDS):
        scene = await a_scene(database.store, locked=end in pair, earlier=False)
        if not await overtaken(database, slow, quick, command, scene):
            break
        if end in pair:  # the log tells it again; what was deleted stays deleted
            await end(database.store, scene)
        seen = await look(database.store, scene)
        if erase_conversation in pair:
            assert seen == Seen(None, False, False, False)
            assert await database.content(scene) == 0
        elif delete_new in pair:
            assert seen == Seen(["first"], False, False, False)
            assert await database.content(scene) == 1
        else:
            assert seen == WHOLE[slow][1]
    assert command > 1


async def test_an_addition_that_lost_its_race_against_a_lock_is_refused(database: Database) -> None:
    """Before its deciding command it has seen no lock; then somebody takes it."""
    refused = 0
    for command in range(_MOST_COMMANDS):
        scene = await a_scene(database.store, earlier=False)
        told: list[object] = []

        async def adding(adapter: Store, scene: Scene, told: list[object] = told) -> None:
            told.append(await add(adapter, scene))

        async def locking(adapter: Store, scene: Scene) -> None:
            await adapter.lock(TENANT, scene.conversation_id, holder(scene.response_id))

        if not await overtaken(database, adding, locking, command, scene):
            break
        seen = await look(database.store, scene)
        assert seen.locked
        assert told == [Addition.DONE if seen.texts == ["first", *ADDED] else Addition.LOCKED]
        refused += told == [Addition.LOCKED]
    assert 0 < refused < command
