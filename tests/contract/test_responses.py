"""What every store must do (`services.history.stores.port.Store`)."""

import msgspec
import pytest

from services.history.stores.port import Store, StoredResponse
from shared.records import (
    Cancelled,
    Deleted,
    Failed,
    Incomplete,
    ModerationResult,
    ModerationWish,
    Screening,
    Usage,
)
from tests.unit.history.fakes import TENANT, accepted, an_id, completed, turn


async def test_gives_back_what_it_was_given(store: Store) -> None:
    response_id = an_id()
    first, last = accepted(response_id, text="zażółć 🐝", metadata={"k": "v"}), completed(response_id, "„gęślą”\0 jaźń")
    assert (await store.record([first, last])).ended == {response_id}
    assert await store.get(TENANT, response_id) == StoredResponse(first, last)


async def test_keeps_what_moderation_made_of_both_sides(store: Store) -> None:
    response_id = an_id()
    wish = ModerationWish(model="omni-moderation-latest", input="block")
    clean = ModerationResult(policy="p1", scores={"hate": 0.25}, sources={"hate": "model"}, failed=["guard"])
    bad = ModerationResult(policy="p1", scores={"hate": 0.75}, flagged=["hate"], sources={"hate": "model"})
    first = msgspec.structs.replace(accepted(response_id, moderation=wish), moderation=clean)
    last = msgspec.structs.replace(completed(response_id), moderation=bad)
    await store.record([first, last])
    assert await store.get(TENANT, response_id) == StoredResponse(first, last)


@pytest.mark.parametrize(
    "kind",
    [
        lambda **base: Incomplete(reason="content_filter", **base),
        lambda **base: Failed(code="server_error", message="m", **base),
        lambda **base: Cancelled(**base),
    ],
)
async def test_keeps_every_kind_of_end(store: Store, kind: type[Incomplete]) -> None:
    response_id = an_id()
    usage = Usage(input_tokens=1, output_tokens=0)
    last = kind(response_id=response_id, tenant=TENANT, text="", usage=usage, finished_ms=1)
    await store.record([accepted(response_id), last])
    found = await store.get(TENANT, response_id)
    assert found is not None and found.terminal == last


async def test_an_unended_response_is_not_there_yet(store: Store) -> None:
    response_id = an_id()
    assert (await store.record([accepted(response_id)])).ended == frozenset()
    assert await store.get(TENANT, response_id) is None
    assert (await store.record([completed(response_id)])).ended == {response_id}
    assert await store.get(TENANT, response_id) is not None


async def test_the_second_of_a_kind_changes_nothing_and_ends_nothing(store: Store) -> None:
    response_id = an_id()
    first, last = accepted(response_id), completed(response_id, "first")
    await store.record([first, last])
    again = await store.record([accepted(response_id, text="other"), completed(response_id, "second")])
    assert again.ended == frozenset()
    assert await store.get(TENANT, response_id) == StoredResponse(first, last)


async def test_an_end_without_a_beginning_does_not_count(store: Store) -> None:
    response_id = an_id()
    assert (await store.record([completed(response_id)])).ended == frozenset()
    assert await store.get(TENANT, response_id) is None


async def test_another_tenant_sees_nothing(store: Store) -> None:
    response_id = an_id()
    await store.record(turn(response_id, "q", "a"))
    assert await store.get("other", response_id) is None
    assert await store.chain("other", response_id, 10) == []


async def test_a_superseded_owner_ends_nothing(store: Store) -> None:
    response_id = an_id()
    await store.record([accepted(response_id), Screening(response_id=response_id, epoch=1, owner="b")])
    assert (await store.record([completed(response_id, "zombie", epoch=0)])).ended == frozenset()
    assert (await store.record([completed(response_id, "real", epoch=1)])).ended == {response_id}
    found = await store.get(TENANT, response_id)
    assert found is not None and found.terminal.text == "real"


async def test_a_second_beginning_supersedes_the_owner_of_the_first(store: Store) -> None:
    response_id = an_id()
    first = accepted(response_id, text="first")
    await store.record([first, accepted(response_id, text="second", epoch=1)])
    assert (await store.record([completed(response_id, "zombie", epoch=0)])).ended == frozenset()
    real = completed(response_id, "real", epoch=1)
    assert (await store.record([real])).ended == {response_id}
    assert await store.get(TENANT, response_id) == StoredResponse(first, real)


async def test_a_superseded_owner_begins_nothing(store: Store) -> None:
    response_id = an_id()
    await store.record([Screening(response_id=response_id, epoch=1, owner="b"), accepted(response_id, text="zombie")])
    real = accepted(response_id, text="real", epoch=1)
    await store.record([real, completed(response_id, epoch=1)])
    found = await store.get(TENANT, response_id)
    assert found is not None and found.accepted == real


async def test_a_deleted_response_stays_deleted(store: Store) -> None:
    response_id = an_id()
    await store.record([*turn(response_id, "q", "a"), Deleted(response_id=response_id, tenant=TENANT)])
    assert await store.get(TENANT, response_id) is None
    await store.record(turn(response_id, "q", "a"))
    assert await store.get(TENANT, response_id) is None


async def test_a_deletion_that_comes_first_or_twice_leaves_nothing_either(store: Store) -> None:
    response_id = an_id()
    deleted = Deleted(response_id=response_id, tenant=TENANT)
    await store.record([deleted, deleted])
    assert (await store.record(turn(response_id, "q", "a"))).ended == frozenset()
    await store.record([deleted])
    assert await store.get(TENANT, response_id) is None
    assert await store.chain(TENANT, response_id, 10) == []


async def test_only_its_tenant_deletes_a_response(store: Store) -> None:
    response_id = an_id()
    await store.record([*turn(response_id, "q", "a"), Deleted(response_id=response_id, tenant="other")])
    assert await store.get(TENANT, response_id) is not None


async def test_a_chain_ends_before_a_deleted_turn(store: Store) -> None:
    first, second, third = an_id(), an_id(), an_id()
    for response_id, parent in ((first, None), (second, first), (third, second)):
        await store.record(turn(response_id, "q", response_id, parent))
    await store.record([Deleted(response_id=second, tenant=TENANT)])
    assert [t.terminal.text for t in await store.chain(TENANT, third, 10)] == [third]
    assert await store.chain(TENANT, second, 10) == []


async def test_store_false_is_not_kept(store: Store) -> None:
    response_id = an_id()
    assert (await store.record(turn(response_id, "q", "a", store=False))).ended == frozenset()
    assert await store.get(TENANT, response_id) is None
    assert await store.chain(TENANT, response_id, 10) == []


async def test_a_chain_is_oldest_first_and_stops_at_its_limit(store: Store) -> None:
    ids = [an_id(partition) for partition in range(4)]
    parent = None
    for number, response_id in enumerate(ids):
        await store.record(turn(response_id, f"q{number}", f"a{number}", parent))
        parent = response_id
    assert [t.terminal.text for t in await store.chain(TENANT, ids[-1], 10)] == ["a0", "a1", "a2", "a3"]
    assert [t.terminal.text for t in await store.chain(TENANT, ids[-1], 2)] == ["a2", "a3"]
    assert [t.terminal.text for t in await store.chain(TENANT, ids[1], 10)] == ["a0", "a1"]


async def test_a_chain_stops_where_an_ancestor_is_missing_or_foreign(store: Store) -> None:
    foreign, missing, middle, last = an_id(), an_id(), an_id(), an_id()
    await store.record(turn(foreign, "q", "secret", tenant="other"))
    await store.record([*turn(middle, "q", "middle", missing), *turn(last, "q", "last", middle)])
    chain = await store.chain(TENANT, last, 10)
    assert [t.terminal.text for t in chain] == ["middle", "last"]
    assert chain[0].previous_response_id == missing
    child = an_id()
    await store.record(turn(child, "q", "child", foreign))
    assert [t.terminal.text for t in await store.chain(TENANT, child, 10)] == ["child"]
