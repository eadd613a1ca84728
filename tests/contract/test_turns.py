"""What every store must do with responses that run in conversations: appending, locks, forgetting (DESIGN 4.6)."""

import asyncio
from typing import Any

import pytest

from services.history.stores.port import Appended, NotThere, Recorded, Store
from shared.ids import new_id, parse_response_id
from shared.records import AnyTerminal, Cancelled, Deleted, Failed, Incomplete, Item, Screening, Usage
from tests.contract.conftest import Replica
from tests.contract.support import OTHER, an_item, begin, holder, holder_of, is_gone, items_of, said, texts_of
from tests.unit.history.fakes import TENANT, accepted, an_id, completed, turn, user

USAGE = Usage(input_tokens=1, output_tokens=0)
NOTHING = Recorded()


def deleted(response_id: str, tenant: str = TENANT) -> Deleted:
    return Deleted(response_id=response_id, tenant=tenant)


def item_ids(items: list[Item]) -> tuple[str, ...]:
    return tuple(item.id for item in items)


async def tell_all(store: Store, response_id: str, conversation_id: str, /, **changes: Any) -> Recorded:
    """Record the response's whole log, as whoever finds it ended does."""
    return await store.record(turn(response_id, "q", "a", conversation=conversation_id, **changes))


# Appending


async def test_an_end_appends_input_and_answer_and_gives_the_lock_back(store: Store) -> None:
    conversation_id, response_id = await begin(store, [an_item("before")]), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    begun = accepted(response_id, conversation=conversation_id, input=[user("one"), user("two")])
    assert await store.record([begun]) == NOTHING
    assert await texts_of(store, conversation_id) == ["before"]
    assert await holder_of(store, conversation_id) == response_id
    told = await store.record([completed(response_id, "answer")])
    items = await items_of(store, conversation_id)
    assert [item.message.text for item in items] == ["before", "one", "two", "answer"]
    assert [item.response_id for item in items] == [None, *[response_id] * 3]
    assert items[-1].id == parse_response_id(response_id).message_id
    assert told.ended == {response_id}
    assert told.appended == (Appended(conversation_id, TENANT, response_id, item_ids(items[1:])),)
    assert await holder_of(store, conversation_id) is None


def ends(response_id: str) -> list[tuple[AnyTerminal, list[str]]]:
    base: dict[str, Any] = {"response_id": response_id, "tenant": TENANT, "usage": USAGE, "finished_ms": 1}
    return [
        (Incomplete(reason="content_filter", text="clean", **base), ["completed", "incomplete"]),
        (Cancelled(text="part", **base), ["completed", "incomplete"]),
        (Failed(code="server_error", message="m", text="part", **base), []),
    ]


@pytest.mark.parametrize("kind", range(3))
async def test_what_is_appended_follows_from_the_kind_of_the_end(kind: int, store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    end, statuses = ends(response_id)[kind]
    await store.lock(TENANT, conversation_id, holder(response_id))
    told = await store.record([accepted(response_id, conversation=conversation_id), end])
    assert [item.status for item in await items_of(store, conversation_id)] == statuses
    assert len(told.appended) == (1 if statuses else 0)
    assert told.ended == {response_id}
    assert await holder_of(store, conversation_id) is None


async def test_a_response_that_says_nothing_brings_its_input(store: Store) -> None:
    conversation_id = await begin(store)
    await said(store, conversation_id, "remember this", "", generate=False)
    assert await texts_of(store, conversation_id) == ["remember this"]


async def test_turns_stand_in_the_order_of_their_ends(store: Store) -> None:
    conversation_id = await begin(store)
    for number in range(3):
        await said(store, conversation_id, f"q{number}", f"a{number}")
        await store.add_items(TENANT, conversation_id, [an_item(f"between {number}")])
    texts = [f"{kind}{number}" for number in range(3) for kind in ("q", "a", "between ")]
    assert await texts_of(store, conversation_id) == texts


async def test_one_batch_may_end_turns_of_many_conversations(store: Store) -> None:
    ids = [(await begin(store), an_id()) for _ in range(5)]
    records = [
        turn(response_id, "q", response_id, conversation=conversation_id) for conversation_id, response_id in ids
    ]
    told = await store.record([record for pair in zip(*records, strict=True) for record in pair])
    assert told.ended == {response_id for _, response_id in ids}
    assert {(a.conversation_id, a.response_id) for a in told.appended} == set(ids)
    for conversation_id, response_id in ids:
        assert await texts_of(store, conversation_id) == ["q", response_id]


async def test_one_batch_may_hold_many_turns_of_one_conversation(store: Store) -> None:
    conversation_id, ids = await begin(store), [an_id() for _ in range(4)]
    told = await store.record([r for i in ids for r in turn(i, "q", i, conversation=conversation_id)])
    assert await texts_of(store, conversation_id) == [text for i in ids for text in ("q", i)]
    assert [appended.response_id for appended in told.appended] == ids


@pytest.mark.parametrize("where", ["unknown", "foreign"])
async def test_a_response_in_a_conversation_that_is_not_its_tenants_is_only_stored(where: str, store: Store) -> None:
    conversation_id = await begin(store, tenant=OTHER) if where == "foreign" else new_id("conv")
    response_id = an_id()
    told = await tell_all(store, response_id, conversation_id)
    assert told == Recorded(ended=frozenset({response_id}))
    assert await store.get(TENANT, response_id) is not None
    if where == "foreign":
        assert await items_of(store, conversation_id, OTHER) == []


async def test_what_is_not_to_be_stored_is_appended_all_the_same(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    told = await tell_all(store, response_id, conversation_id, store=False)
    items = await items_of(store, conversation_id)
    assert [item.message.text for item in items] == ["q", "a"]
    assert told == Recorded(appended=(Appended(conversation_id, TENANT, response_id, item_ids(items)),))
    assert await store.get(TENANT, response_id) is None
    assert await store.chain(TENANT, response_id, 5) == []
    assert await holder_of(store, conversation_id) is None
    # Its end alone, as after a crash between the store and the offset's commit.
    assert await store.record([completed(response_id)]) == told
    assert await items_of(store, conversation_id) == items


async def test_what_stands_in_a_conversation_of_somebody_else_is_not_told(store: Store) -> None:
    response_id = an_id()
    conversation_id = await begin(store, [an_item(response_id=response_id)], tenant=OTHER)
    told = await tell_all(store, response_id, conversation_id)
    assert told == Recorded(ended=frozenset({response_id}))
    assert await store.record([deleted(response_id)]) == NOTHING
    assert len(await items_of(store, conversation_id, OTHER)) == 1


# Again, and late


@pytest.mark.parametrize("kept", [True, False])
async def test_an_end_that_comes_again_is_told_again_and_changes_nothing(kept: bool, store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    told = await tell_all(store, response_id, conversation_id, store=kept)
    await store.add_items(TENANT, conversation_id, [an_item("after")])
    for records in ([completed(response_id)], turn(response_id, "x", "y", conversation=conversation_id, store=kept)):
        again = await store.record([*records, *records])
        assert again == Recorded(appended=told.appended)
    assert await texts_of(store, conversation_id) == ["q", "a", "after"]


async def test_an_end_that_two_replicas_apply_at_once_counts_once(replica: Replica) -> None:
    stores = [await replica(), await replica()]
    conversation_id, response_id = await begin(stores[0]), an_id()
    await stores[0].lock(TENANT, conversation_id, holder(response_id))
    told = await asyncio.gather(*(tell_all(s, response_id, conversation_id) for s in stores for _ in range(4)))
    assert sorted(len(answer.ended) for answer in told) == [0] * 7 + [1]
    assert len({answer.appended for answer in told}) == 1
    assert await texts_of(stores[1], conversation_id) == ["q", "a"]


async def test_readers_see_a_turn_whole_or_not_at_all(replica: Replica) -> None:
    writer, reader = await replica(), await replica()
    conversation_id = await begin(writer)

    async def speak() -> None:
        for _ in range(10):
            await said(writer, conversation_id)

    speaking = asyncio.create_task(speak())
    while not speaking.done():
        assert len(await items_of(reader, conversation_id)) % 2 == 0, "half a turn"
        await asyncio.sleep(0)
    await speaking
    assert len(await items_of(reader, conversation_id)) == 20


async def test_whoever_finds_the_lock_free_finds_the_turn(replica: Replica) -> None:
    writer, reader = await replica(), await replica()
    conversation_id = await begin(writer)
    for number in range(1, 9):
        response_id = an_id()
        await writer.lock(TENANT, conversation_id, holder(response_id))
        ending = asyncio.create_task(tell_all(writer, response_id, conversation_id))
        while await holder_of(reader, conversation_id) is not None:
            await asyncio.sleep(0)
        assert len(await items_of(reader, conversation_id)) == 2 * number
        await ending


async def test_a_superseded_owner_appends_nothing_and_gives_no_lock_back(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    begun = accepted(response_id, conversation=conversation_id)
    takeover = Screening(response_id=response_id, epoch=1, owner="b")
    assert await store.record([begun, takeover, completed(response_id, "zombie")]) == NOTHING
    assert await holder_of(store, conversation_id) == response_id
    assert await items_of(store, conversation_id) == []
    await store.record([completed(response_id, "real", epoch=1), completed(response_id, "late zombie")])
    assert await texts_of(store, conversation_id) == ["hello", "real"]
    assert await holder_of(store, conversation_id) is None


async def test_an_end_without_a_beginning_gives_no_lock_back(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    assert await store.record([completed(response_id)]) == NOTHING
    assert await holder_of(store, conversation_id) == response_id


@pytest.mark.parametrize("state", ["kept", "not kept", "failed", "deleted", "item deleted"])
async def test_a_lock_that_was_taken_after_the_end_is_given_back_when_the_end_comes_again(
    state: str, store: Store
) -> None:
    conversation_id, response_id = await begin(store), an_id()
    records: list[Any] = turn(response_id, "q", "a", conversation=conversation_id, store=state != "not kept")
    if state == "failed":
        records[1] = ends(response_id)[2][0]
    if state == "deleted":
        records.append(deleted(response_id))
    await store.record(records)
    if state == "item deleted":
        await store.erase_item(TENANT, conversation_id, (await items_of(store, conversation_id))[0].id)
    before = await items_of(store, conversation_id)
    await store.lock(TENANT, conversation_id, holder(response_id))
    await store.record(records)
    assert await holder_of(store, conversation_id) is None
    assert await items_of(store, conversation_id) == before


async def test_an_end_gives_back_no_lock_of_others(store: Store) -> None:
    conversation_id, other_id = await begin(store), await begin(store)
    one, two = an_id(), an_id()
    await store.lock(TENANT, other_id, holder(one))
    await store.lock(TENANT, conversation_id, holder(two))
    await tell_all(store, an_id(), conversation_id)
    await tell_all(store, one, conversation_id, tenant=OTHER)
    assert await holder_of(store, other_id) == one
    assert await holder_of(store, conversation_id) == two


# Deleting a response


@pytest.mark.parametrize("kept", [True, False])
async def test_a_deleted_response_takes_its_items_with_it(kept: bool, store: Store) -> None:
    conversation_id = await begin(store, [an_item("before")])
    response_id = await said(store, conversation_id, store=kept)
    other = await said(store, conversation_id, "other q", "other a")
    mine = await items_of(store, conversation_id)
    went = Appended(conversation_id, TENANT, response_id, item_ids(mine[1:3]))
    for _ in range(2):
        assert await store.record([deleted(response_id)]) == Recorded(withdrawn=(went,))
        assert await texts_of(store, conversation_id) == ["before", "other q", "other a"]
    assert await store.get(TENANT, response_id) is None
    assert await store.get(TENANT, other) is not None


async def test_what_comes_late_for_a_deleted_response_brings_nothing_back(store: Store) -> None:
    conversation_id = await begin(store)
    response_id = await said(store, conversation_id)
    await store.record([deleted(response_id)])
    assert await tell_all(store, response_id, conversation_id) == NOTHING
    assert await items_of(store, conversation_id) == []


async def test_all_of_a_response_in_one_batch_leaves_nothing(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    told = await store.record([*turn(response_id, "q", "a", conversation=conversation_id), deleted(response_id)])
    assert told.ended == {response_id}
    assert told.appended == told.withdrawn and len(told.appended[0].item_ids) == 2
    assert await items_of(store, conversation_id) == []
    assert await holder_of(store, conversation_id) is None


async def test_a_deletion_before_the_end_leaves_the_lock_to_the_end(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    assert await store.record([accepted(response_id, conversation=conversation_id), deleted(response_id)]) == NOTHING
    assert await holder_of(store, conversation_id) == response_id
    assert await store.record([completed(response_id)]) == NOTHING
    assert await holder_of(store, conversation_id) is None
    assert await items_of(store, conversation_id) == []


async def test_the_end_of_a_response_that_was_deleted_before_it_began_gives_the_lock_back(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.lock(TENANT, conversation_id, holder(response_id))
    await store.record([deleted(response_id)])
    assert await tell_all(store, response_id, conversation_id) == NOTHING
    assert await holder_of(store, conversation_id) is None
    assert await items_of(store, conversation_id) == []


async def test_nobody_deletes_a_response_of_somebody_else(store: Store) -> None:
    conversation_id = await begin(store)
    response_id = await said(store, conversation_id)
    assert await store.record([deleted(response_id, OTHER)]) == NOTHING
    assert await texts_of(store, conversation_id) == ["q", "a"]
    assert await store.get(TENANT, response_id) is not None


# Deleting an item


@pytest.mark.parametrize("kept", [True, False])
async def test_a_deleted_item_takes_its_response_but_not_its_neighbour(kept: bool, store: Store) -> None:
    conversation_id = await begin(store)
    response_id = await said(store, conversation_id, store=kept)
    question, answer = await items_of(store, conversation_id)
    for _ in range(2):
        assert await store.erase_item(TENANT, conversation_id, question.id) == response_id
        assert await store.get(TENANT, response_id) is None
        assert await items_of(store, conversation_id) == [answer]
        # The log says so too, later; and whatever was said before may come once more.
        assert await store.record([deleted(response_id)]) == NOTHING
        assert await tell_all(store, response_id, conversation_id, store=kept) == NOTHING
        assert await items_of(store, conversation_id) == [answer]
    assert await store.erase_item(TENANT, conversation_id, answer.id) == response_id
    assert await items_of(store, conversation_id) == []


async def test_an_item_takes_its_response_also_where_that_is_not_stored(store: Store) -> None:
    response_id = an_id()
    asked, answered = an_item("q", response_id=response_id), an_item("a", response_id=response_id)
    conversation_id = await begin(store, [asked, answered])
    assert await store.erase_item(TENANT, conversation_id, asked.id) == response_id
    assert await store.record([deleted(response_id)]) == NOTHING
    assert await items_of(store, conversation_id) == [answered], "the neighbour went with the log's word"


# Deleting a conversation


async def test_a_deleted_conversation_takes_its_responses_with_it(store: Store) -> None:
    conversation_id = await begin(store, [an_item()])
    ids = [await said(store, conversation_id), await said(store, conversation_id, store=False)]
    alone = an_id()
    await store.record(turn(alone, "q", "a"))
    for _ in range(2):
        assert sorted(await store.erase_conversation(TENANT, conversation_id) or []) == sorted(ids)
    assert [await store.get(TENANT, response_id) for response_id in ids] == [None, None]
    assert await store.chain(TENANT, ids[0], 5) == []
    assert await store.get(TENANT, alone) is not None


async def test_a_conversation_takes_no_response_of_somebody_else_with_it(store: Store) -> None:
    conversation_id, foreign = await begin(store), [an_id(), an_id()]
    for response_id in foreign:
        await tell_all(store, response_id, conversation_id, tenant=OTHER)
    assert await store.erase_conversation(TENANT, conversation_id) == []
    again = await tell_all(store, foreign[0], conversation_id, tenant=OTHER)
    assert again == NOTHING
    assert [await store.get(OTHER, response_id) is not None for response_id in foreign] == [True, True]


async def test_what_was_deleted_before_its_conversation_is_named_once_more(store: Store) -> None:
    conversation_id = await begin(store)
    first, second = await said(store, conversation_id), await said(store, conversation_id)
    await store.record([deleted(first)])
    assert sorted(await store.erase_conversation(TENANT, conversation_id) or []) == sorted([first, second])


async def test_what_comes_late_for_a_deleted_conversation_brings_nothing_back(store: Store) -> None:
    conversation_id = await begin(store)
    response_id = await said(store, conversation_id)
    assert await store.erase_conversation(TENANT, conversation_id) == [response_id]
    again = await tell_all(store, response_id, conversation_id)
    assert again == Recorded(forgotten=frozenset({response_id})), "who crashed before it told others tells them now"
    assert await store.get(TENANT, response_id) is None
    await store.record([deleted(response_id)])
    assert await tell_all(store, response_id, conversation_id) == NOTHING
    assert await store.lock(TENANT, conversation_id, holder()) is None
    assert await is_gone(store, conversation_id)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("begun", ["before", "after"])
async def test_a_response_that_outlives_its_conversation_is_forgotten_as_it_ends(
    begun: str, kept: bool, store: Store
) -> None:
    conversation_id, response_id = await begin(store), an_id()
    beginning = accepted(response_id, conversation=conversation_id, store=kept)
    await store.lock(TENANT, conversation_id, holder(response_id))
    if begun == "before":
        await store.record([beginning])
    assert await store.erase_conversation(TENANT, conversation_id) == [], "it runs: nobody may delete it yet"
    if begun == "after":
        await store.record([beginning])
    for _ in range(2):
        assert await store.record([completed(response_id)]) == Recorded(forgotten=frozenset({response_id}))
        assert await store.get(TENANT, response_id) is None
        assert await store.erase_conversation(TENANT, conversation_id) == [response_id]
    assert await is_gone(store, conversation_id)


async def test_a_failed_response_in_a_deleted_conversation_is_forgotten_too(store: Store) -> None:
    conversation_id, response_id = await begin(store), an_id()
    await store.erase_conversation(TENANT, conversation_id)
    told = await store.record([accepted(response_id, conversation=conversation_id), ends(response_id)[2][0]])
    assert told == Recorded(forgotten=frozenset({response_id}))


async def test_a_conversation_is_never_seen_half_deleted(replica: Replica) -> None:
    writer, reader = await replica(), await replica()
    conversation_id = await begin(writer)
    response_id = await said(writer, conversation_id)
    erasing = asyncio.create_task(writer.erase_conversation(TENANT, conversation_id))
    while True:
        found = await reader.items(TENANT, conversation_id, limit=5, order="asc")
        if isinstance(found, NotThere):
            break
        assert len(found.items) == 2
        await asyncio.sleep(0)
    assert await erasing == [response_id]
    assert await reader.get(TENANT, response_id) is None
