"""What every store must do with a conversation and its items (`services.history.stores.port.Conversations`)."""

import asyncio
from dataclasses import replace

import pytest

from services.history.stores.port import Addition, Conversation, ItemPage, NotThere, Store
from shared.ids import new_id
from tests.contract.conftest import Replica
from tests.contract.support import (
    OTHER,
    an_item,
    begin,
    holder,
    holder_of,
    is_gone,
    items_of,
    said,
    some_items,
    texts_of,
)
from tests.unit.history.fakes import NOW_MS, TENANT, an_id


def a_conversation(**changes: object) -> Conversation:
    return replace(Conversation(new_id("conv"), TENANT, NOW_MS, {"topic": "zażółć 🐝\0"}), **changes)


# Beginning and metadata


async def test_a_conversation_is_there_as_it_was_begun(store: Store) -> None:
    conversation, items = a_conversation(), some_items(3)
    assert await store.create_conversation(conversation, items) == conversation
    assert await store.conversation(TENANT, conversation.id) == conversation
    assert await items_of(store, conversation.id) == items


async def test_items_come_back_as_they_went_in(store: Store) -> None:
    items = [
        an_item(role="developer", parts=["„gęślą”\0", "", "\U0010ffff\u2028"]),
        an_item(role="assistant", status="incomplete", response_id=an_id()),
        an_item(role="system", parts=[]),
    ]
    conversation_id = await begin(store, items)
    assert await items_of(store, conversation_id) == items
    assert [await store.item(TENANT, conversation_id, item.id) for item in items] == items


async def test_a_conversation_that_is_begun_again_stands_as_it_was(store: Store) -> None:
    conversation = a_conversation()
    await store.create_conversation(conversation, [an_item("first")])
    changed = await store.set_metadata(TENANT, conversation.id, {"now": "this"})
    assert await store.create_conversation(conversation, [an_item("second")]) == changed
    assert await store.create_conversation(replace(conversation, created_ms=1, metadata={}), []) == changed
    assert await texts_of(store, conversation.id) == ["first"]


async def test_nobody_begins_a_conversation_of_somebody_else(store: Store) -> None:
    conversation = a_conversation()
    await store.create_conversation(conversation, [])
    assert await store.create_conversation(replace(conversation, tenant=OTHER), [an_item()]) is None
    assert await store.conversation(TENANT, conversation.id) == conversation
    assert await items_of(store, conversation.id) == []


async def test_an_item_that_is_named_twice_at_the_beginning_is_there_once(store: Store) -> None:
    item = an_item("first")
    conversation_id = await begin(store, [item, an_item("again", id=item.id), an_item("second")])
    assert await texts_of(store, conversation_id) == ["first", "second"]


async def test_an_item_that_is_named_twice_among_others_stands_where_it_was_named_first(store: Store) -> None:
    conversation_id, item = await begin(store), an_item("first")
    await store.add_items(TENANT, conversation_id, [item, an_item("second"), an_item("again", id=item.id)])
    assert await texts_of(store, conversation_id) == ["first", "second"]


async def test_metadata_are_replaced_whole(store: Store) -> None:
    conversation = a_conversation(metadata={"a": "1", "b": "2"})
    await store.create_conversation(conversation, [])
    for metadata in ({"c": "ź"}, {"c": "ź"}, {}):
        expected = replace(conversation, metadata=metadata)
        assert await store.set_metadata(TENANT, conversation.id, metadata) == expected
        assert await store.conversation(TENANT, conversation.id) == expected


async def test_a_conversation_may_be_changed_while_a_response_holds_it(store: Store) -> None:
    item = an_item()
    conversation_id, held = await begin(store, [item]), holder()
    await store.lock(TENANT, conversation_id, held)
    changed = await store.set_metadata(TENANT, conversation_id, {"a": "1"})
    assert changed is not None and changed.holder == held
    assert await store.erase_item(TENANT, conversation_id, item.id) is None
    assert await items_of(store, conversation_id) == []


# Who may see it


@pytest.mark.parametrize("absent", ["unknown", "foreign", "deleted"])
async def test_what_is_not_the_tenants_is_not_there(absent: str, store: Store) -> None:
    item = an_item()
    conversation_id = new_id("conv")
    if absent != "unknown":
        conversation_id = await begin(store, [item], tenant=OTHER if absent == "foreign" else TENANT)
    if absent == "deleted":
        await store.erase_conversation(TENANT, conversation_id)
    assert await store.conversation(TENANT, conversation_id) is None
    assert await store.set_metadata(TENANT, conversation_id, {"a": "1"}) is None
    assert await store.lock(TENANT, conversation_id, holder()) is None
    await store.release(TENANT, conversation_id, an_id())
    assert await store.add_items(TENANT, conversation_id, [an_item()]) is Addition.NOT_FOUND
    assert await store.items(TENANT, conversation_id, limit=5, order="asc") is NotThere.CONVERSATION
    assert await store.items(TENANT, conversation_id, limit=5, order="desc", after=item.id) is NotThere.CONVERSATION
    assert await store.item(TENANT, conversation_id, item.id) is NotThere.CONVERSATION
    assert await store.erase_item(TENANT, conversation_id, item.id) is NotThere.CONVERSATION
    if absent != "deleted":
        assert await store.erase_conversation(TENANT, conversation_id) is None
    if absent == "foreign":
        assert await items_of(store, conversation_id, OTHER) == [item]
        found = await store.conversation(OTHER, conversation_id)
        assert found is not None and found.metadata == {} and found.holder is None


async def test_items_of_one_conversation_are_none_of_another(store: Store) -> None:
    item = an_item()
    first, second = await begin(store, [item]), await begin(store)
    assert await store.item(TENANT, second, item.id) is NotThere.ITEM
    assert await store.erase_item(TENANT, second, item.id) is NotThere.ITEM
    assert await store.items(TENANT, second, limit=1, order="asc", after=item.id) is NotThere.ITEM
    assert await store.add_items(TENANT, second, [item]) is Addition.DONE
    await store.erase_item(TENANT, first, item.id)
    assert await items_of(store, second) == [item]


async def test_replicas_see_what_the_others_did(replica: Replica) -> None:
    one, two = await replica(), await replica()
    conversation_id = await begin(one, some_items(2))
    assert await two.add_items(TENANT, conversation_id, [an_item("third")]) is Addition.DONE
    assert await texts_of(one, conversation_id) == ["item 0", "item 1", "third"]
    await one.lock(TENANT, conversation_id, holder("resp_a"))
    assert await holder_of(two, conversation_id) == "resp_a"
    await two.erase_conversation(TENANT, conversation_id)
    assert await is_gone(one, conversation_id)


# The lock


async def test_a_lock_has_one_holder_who_may_ask_again(store: Store) -> None:
    conversation_id, first, second = await begin(store), holder(), holder()
    for asker in (first, first, second, first):
        found = await store.lock(TENANT, conversation_id, asker)
        assert found is not None and found.holder == first
    await store.release(TENANT, conversation_id, second.response_id)
    assert await holder_of(store, conversation_id) == first.response_id
    await store.release(TENANT, conversation_id, first.response_id)
    await store.release(TENANT, conversation_id, first.response_id)
    assert await holder_of(store, conversation_id) is None
    found = await store.lock(TENANT, conversation_id, second)
    assert found is not None and found.holder == second


async def test_of_many_that_take_the_lock_at_once_one_gets_it(replica: Replica) -> None:
    stores = [await replica(), await replica()]
    conversation_id = await begin(stores[0])
    askers = [holder() for _ in range(10)]
    found = await asyncio.gather(*(store.lock(TENANT, conversation_id, asker) for asker in askers for store in stores))
    holders = {answer.holder for answer in found if answer is not None}
    assert len(holders) == 1 and holders <= set(askers)
    assert await holder_of(stores[1], conversation_id) == holders.pop().response_id  # type: ignore[union-attr]


async def test_only_its_tenant_takes_and_gives_back_a_lock(store: Store) -> None:
    conversation_id, held = await begin(store), holder()
    assert await store.lock(OTHER, conversation_id, held) is None
    assert await holder_of(store, conversation_id) is None
    await store.lock(TENANT, conversation_id, held)
    await store.release(OTHER, conversation_id, held.response_id)
    assert await holder_of(store, conversation_id) == held.response_id


# Adding


async def test_items_are_added_behind_all_others_in_their_order(store: Store) -> None:
    conversation_id = await begin(store, [an_item("0")])
    for batch in (["1", "2"], [], ["3"]):
        assert await store.add_items(TENANT, conversation_id, [an_item(text) for text in batch]) is Addition.DONE
    assert await texts_of(store, conversation_id) == ["0", "1", "2", "3"]


async def test_items_that_are_added_again_are_there_once(store: Store) -> None:
    conversation_id, items = await begin(store, [an_item("0")]), some_items(2)
    await store.add_items(TENANT, conversation_id, items)
    await store.add_items(TENANT, conversation_id, [an_item("between")])
    assert await store.add_items(TENANT, conversation_id, [*items, items[0], an_item("new")]) is Addition.DONE
    assert await texts_of(store, conversation_id) == ["0", "item 0", "item 1", "between", "new"]


async def test_items_that_were_deleted_are_not_added_again(store: Store) -> None:
    conversation_id, items = await begin(store), some_items(2)
    await store.add_items(TENANT, conversation_id, items)
    await store.erase_item(TENANT, conversation_id, items[0].id)
    assert await store.add_items(TENANT, conversation_id, items) is Addition.DONE
    assert await items_of(store, conversation_id) == items[1:]


async def test_nothing_is_added_while_a_response_holds_the_lock(store: Store) -> None:
    known, deleted = an_item("known"), an_item("deleted")
    conversation_id, held = await begin(store, [known, deleted]), holder()
    await store.erase_item(TENANT, conversation_id, deleted.id)
    await store.lock(TENANT, conversation_id, held)
    assert await store.add_items(TENANT, conversation_id, [known, an_item("new")]) is Addition.LOCKED
    assert await texts_of(store, conversation_id) == ["known"]
    # A request that comes a second time comes to the same, whatever began since.
    assert await store.add_items(TENANT, conversation_id, [known, deleted]) is Addition.DONE
    await store.release(TENANT, conversation_id, held.response_id)
    assert await store.add_items(TENANT, conversation_id, [an_item("new")]) is Addition.DONE
    assert await texts_of(store, conversation_id) == ["known", "new"]


async def test_batches_that_are_added_at_once_stay_whole(replica: Replica) -> None:
    stores = [await replica(), await replica()]
    conversation_id = await begin(stores[0])
    batches = [[an_item(f"{number}.{place}") for place in range(5)] for number in range(8)]
    # Each twice, as redelivered: at both replicas in the same moment.
    await asyncio.gather(*(store.add_items(TENANT, conversation_id, batch) for batch in batches for store in stores))
    found = await texts_of(stores[1], conversation_id)
    runs = [found[place : place + 5] for place in range(0, len(found), 5)]
    assert sorted(runs) == sorted([item.message.text for item in batch] for batch in batches)


async def test_readers_see_a_batch_whole_or_not_at_all(replica: Replica) -> None:
    writer, reader = await replica(), await replica()
    conversation_id = await begin(writer)
    reading = asyncio.Event()

    async def write() -> None:
        for number in range(12):
            await writer.add_items(TENANT, conversation_id, [an_item(f"{number}.{place}") for place in range(4)])
            reading.clear()
            await reading.wait()

    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        seen.add(len(await items_of(reader, conversation_id)))
        reading.set()
        await asyncio.sleep(0)
    await writing
    assert {count % 4 for count in seen} == {0} and len(seen) > 2


# Deleting items


async def test_a_deleted_item_is_gone_and_the_others_stay(store: Store) -> None:
    items = some_items(3)
    conversation_id = await begin(store, items)
    for _ in range(2):
        assert await store.erase_item(TENANT, conversation_id, items[1].id) is None
        assert await items_of(store, conversation_id) == [items[0], items[2]]
        assert await store.item(TENANT, conversation_id, items[1].id) is NotThere.ITEM
    assert await store.erase_item(TENANT, conversation_id, new_id("msg")) is NotThere.ITEM
    assert await store.erase_item(OTHER, conversation_id, items[0].id) is NotThere.CONVERSATION
    assert await items_of(store, conversation_id) == [items[0], items[2]]


async def test_an_item_that_is_deleted_at_once_from_all_sides_is_deleted_once(replica: Replica) -> None:
    stores = [await replica(), await replica()]
    conversation_id = await begin(stores[0])
    response_id = await said(stores[0], conversation_id)
    item_id = (await items_of(stores[0], conversation_id))[0].id
    found = await asyncio.gather(*(s.erase_item(TENANT, conversation_id, item_id) for s in stores for _ in range(4)))
    assert set(found) == {response_id}


# Deleting conversations


async def test_a_deleted_conversation_does_not_come_back(store: Store) -> None:
    conversation = a_conversation()
    await store.create_conversation(conversation, some_items(3))
    for _ in range(2):
        assert await store.erase_conversation(TENANT, conversation.id) == []
        assert await store.create_conversation(conversation, some_items(1)) is None
        assert await store.create_conversation(replace(conversation, tenant=OTHER), []) is None
        assert await is_gone(store, conversation.id)
        assert await is_gone(store, conversation.id, OTHER)
    assert await store.erase_conversation(OTHER, conversation.id) is None


async def test_deleting_one_conversation_leaves_the_others(store: Store) -> None:
    conversation_id, other_id = await begin(store), await begin(store)
    kept = await said(store, other_id, "kept", "too")
    erased = await said(store, conversation_id)
    assert await store.erase_conversation(TENANT, conversation_id) == [erased]
    assert await texts_of(store, other_id) == ["kept", "too"]
    assert await store.get(TENANT, kept) is not None


async def test_a_conversation_that_is_deleted_at_once_from_all_sides_tells_all_the_same(replica: Replica) -> None:
    stores = [await replica(), await replica()]
    conversation_id = await begin(stores[0], some_items(30))
    ids = [await said(stores[0], conversation_id) for _ in range(3)]
    found = await asyncio.gather(*(s.erase_conversation(TENANT, conversation_id) for s in stores for _ in range(4)))
    assert all(sorted(answer or []) == sorted(ids) for answer in found)
    assert isinstance(await stores[1].items(TENANT, conversation_id, limit=1, order="asc"), NotThere)


async def test_a_page_of_an_empty_conversation_is_empty(store: Store) -> None:
    conversation_id = await begin(store)
    for order in ("asc", "desc"):
        assert await store.items(TENANT, conversation_id, limit=1, order=order) == ItemPage([], has_more=False)  # type: ignore[arg-type]
