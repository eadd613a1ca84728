"""What expires, when, and what does not (`Conversations.forget_expired`). The stores' clock stands at NOW_MS."""

import pytest

from services.history.stores.port import Recorded, Retention, Store
from shared.records import Deleted, Screening
from shared.topics import REGISTRY
from tests.contract.support import RETENTION, TOMBSTONE_GONE_MS, an_item, begin, is_gone, items_of, said
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, accepted, an_id, completed, turn

FINISHED_MS = NOW_MS + 5
assert RETENTION.response_ms is not None
GONE_MS = FINISHED_MS + RETENTION.response_ms


async def test_a_response_expires_a_set_time_after_its_end(store: Store) -> None:
    response_id = an_id()
    await store.record(turn(response_id, "q", "a"))
    assert await store.forget_expired(GONE_MS - 1, 10) == 0
    assert await store.get(TENANT, response_id) is not None
    assert await store.forget_expired(GONE_MS, 10) == 1
    assert await store.get(TENANT, response_id) is None
    assert await store.forget_expired(GONE_MS, 10) == 0


async def test_what_never_ended_expires_after_its_deadline(store: Store) -> None:
    assert RETENTION.response_ms is not None
    response_id = an_id()
    await store.record([accepted(response_id)])
    assert await store.forget_expired(FAR_MS + RETENTION.response_ms - 1, 10) == 0
    assert await store.forget_expired(FAR_MS + RETENTION.response_ms, 10) == 1
    assert await store.record([completed(response_id)]) == Recorded()


async def test_a_mark_without_a_response_is_forgotten_as_a_tombstone_is(store: Store) -> None:
    await store.record([Screening(response_id=an_id(), epoch=1, owner="a")])
    assert await store.forget_expired(TOMBSTONE_GONE_MS - 1, 10) == 0
    assert await store.forget_expired(TOMBSTONE_GONE_MS, 10) == 1


async def test_a_conversation_never_expires_nor_do_its_items(store: Store) -> None:
    conversation_id = await begin(store, [an_item()])
    await said(store, conversation_id)
    await said(store, conversation_id, store=False)
    items = await items_of(store, conversation_id)
    assert await store.forget_expired(1 << 50, 10) == 2, "the two responses"
    assert await items_of(store, conversation_id) == items and len(items) == 5
    assert await store.erase_conversation(TENANT, conversation_id) == []


async def test_an_item_of_an_expired_response_can_be_deleted(store: Store) -> None:
    conversation_id = await begin(store)
    response_id = await said(store, conversation_id)
    await store.forget_expired(GONE_MS, 10)
    question, answer = await items_of(store, conversation_id)
    assert await store.erase_item(TENANT, conversation_id, question.id) == response_id
    await store.record([Deleted(response_id=response_id, tenant=TENANT)])
    assert await items_of(store, conversation_id) == [answer]


async def test_tombstones_outlast_what_can_come_late_and_then_go(store: Store) -> None:
    item = an_item()
    deleted_id, conversation_id = await begin(store), await begin(store, [item])
    response_id = an_id()
    await store.erase_conversation(TENANT, deleted_id)
    await store.erase_item(TENANT, conversation_id, item.id)
    await store.record([*turn(response_id, "q", "a"), Deleted(response_id=response_id, tenant=TENANT)])
    assert await store.forget_expired(TOMBSTONE_GONE_MS - 1, 10) == 0
    await store.record(turn(response_id, "q", "a"))
    assert await store.get(TENANT, response_id) is None
    assert await store.forget_expired(TOMBSTONE_GONE_MS, 10) == 3
    assert await is_gone(store, deleted_id)
    assert await store.erase_conversation(TENANT, deleted_id) is None


async def test_a_sweep_takes_no_more_than_it_may(store: Store) -> None:
    ids = [an_id() for _ in range(7)]
    await store.record([record for response_id in ids for record in turn(response_id, "q", "a")])
    await store.erase_conversation(TENANT, await begin(store))
    late_ms = 1 << 50
    assert [await store.forget_expired(late_ms, 3) for _ in range(4)] == [3, 3, 2, 0]
    assert [await store.get(TENANT, response_id) for response_id in ids] == [None] * 7


async def test_an_expired_response_is_none_to_go_on_from(store: Store) -> None:
    first, second = an_id(), an_id()
    await store.record(turn(first, "q", "a"))
    await store.forget_expired(GONE_MS, 10)
    await store.record(turn(second, "q2", "a2", first))
    chain = await store.chain(TENANT, second, 10)
    assert [turn.accepted.response_id for turn in chain] == [second]
    assert chain[0].previous_response_id == first


def test_what_is_said_of_retention_holds() -> None:
    kept = Retention()
    assert all(kept.tombstone_ms > topic.retention.total_seconds() * 1000 for topic in REGISTRY.values())
    assert Retention.of_days(0).response_until(NOW_MS) is None
    assert Retention.of_days(30) == kept
    assert Retention.of_days(1).response_until(NOW_MS) == NOW_MS + 86_400_000


@pytest.mark.parametrize("now_ms", [0, NOW_MS])
async def test_nothing_expires_early(now_ms: int, store: Store) -> None:
    conversation_id = await begin(store)
    await said(store, conversation_id)
    assert await store.forget_expired(now_ms, 10) == 0
