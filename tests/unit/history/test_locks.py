"""A conversation's lock: who may have it, and that it never outlives its response."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.history import retry
from services.history.errors import StoreRefusedError, StoreUnavailableError
from services.history.locks import LOST_AFTER_MS, Fate, fate
from services.history.ports import Ports
from services.history.stores.port import Conversation, Holder, ItemPage, Recordable, Recorded, Store
from services.history.stores.sqlite import SqliteStore
from services.history.turns import request_with_context
from shared.errors import BrokerUnavailableError
from shared.folds import EventFold
from shared.records import ContextRequested, Delta, Item, Rejected, Requested, Screening
from tests.unit.history.fakes import (
    FAR_MS,
    NOW_MS,
    TENANT,
    MemoryLog,
    MemoryStore,
    accepted,
    an_id,
    asked,
    completed,
    delta,
    ports,
    turn,
)

CONVERSATION = "conv_1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_LONGEST_POLL_S", 0.002)


BOTH = pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """With one conversation of two items; in memory, unless the test asks for BOTH."""
    embedded = getattr(request, "param", "memory") == "sqlite"
    made: Store = SqliteStore(tmp_path / "history.sqlite3") if embedded else MemoryStore()
    await made.open()
    items = [Item(id="msg_1", role="user", parts=["one"]), Item(id="msg_2", role="assistant", parts=["1"])]
    await made.create_conversation(Conversation(CONVERSATION, TENANT, NOW_MS), items)
    yield made
    await made.close()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def a_request(text: str = "and then?", **changes: Any) -> ContextRequested:
    return asked(None, text, conversation=CONVERSATION, **changes)


def ended(request: ContextRequested, answer: str = "answer") -> list[Any]:
    spec = request.request.spec
    return turn(request.request.response_id, spec.input[0].text, answer, conversation=CONVERSATION, store=spec.store)


def ticking(made: Ports, step_ms: int = 40) -> Ports:
    """Ports whose clock goes on by itself."""
    now = iter(range(NOW_MS, NOW_MS + 1_000_000, step_ms))
    return replace(made, clock_ms=lambda: next(now))


async def outcome(request: ContextRequested, made: Ports) -> Requested | Rejected:
    (sent,) = await request_with_context(request, made)
    assert isinstance(sent.record, Requested | Rejected)
    return sent.record


async def holder(store: Store) -> str | None:
    found = await store.conversation(TENANT, CONVERSATION)
    assert found is not None
    return found.holder.response_id if found.holder is not None else None


async def said(store: Store) -> list[str]:
    page = await store.items(TENANT, CONVERSATION, limit=100, order="asc")
    assert isinstance(page, ItemPage)
    return ["".join(item.parts) for item in page.items]


@BOTH
async def test_a_request_goes_on_from_its_conversation_and_holds_it(store: Store, log: MemoryLog) -> None:
    request = a_request()
    made = await outcome(request, ports(store, log))
    assert isinstance(made, Requested)
    assert [m.text for m in made.prompt()] == ["one", "1", "and then?"]
    assert (made.chain, made.affinity_key) == (None, CONVERSATION)
    assert await holder(store) == request.request.response_id
    await store.record(ended(request, "2"))
    assert await holder(store) is None
    assert await said(store) == ["one", "1", "and then?", "2"]


async def test_a_request_that_names_both_goes_on_from_its_conversation(store: Store, log: MemoryLog) -> None:
    """The gateway lets none through; one that comes all the same does no harm."""
    made = await outcome(asked(an_id(), conversation=CONVERSATION), ports(store, log))
    assert isinstance(made, Requested)
    assert [m.text for m in made.context] == ["one", "1"]


async def test_a_request_delivered_twice_comes_to_the_same(store: Store, log: MemoryLog) -> None:
    request = a_request()
    assert await outcome(request, ports(store, log)) == await outcome(request, ports(store, log))


async def test_while_one_runs_the_next_is_refused_after_a_wait(store: Store, log: MemoryLog) -> None:
    first = a_request()
    await outcome(first, ports(store, log))
    log.records = {first.request.response_id: [accepted(first.request.response_id, conversation=CONVERSATION)]}
    refusal = await outcome(a_request(), ticking(ports(store, log), 5))
    assert isinstance(refusal, Rejected)
    assert (refusal.status, refusal.code, refusal.param) == (400, "conversation_locked", "conversation")
    assert await holder(store) == first.request.response_id
    assert log.reads >= 2


@BOTH
async def test_of_many_at_once_one_runs(store: Store, log: MemoryLog) -> None:
    requests = [a_request() for _ in range(5)]
    made = [replace(ports(store, log), parent_wait_s=0) for _ in requests]
    outcomes = await asyncio.gather(*map(outcome, requests, made))
    assert sorted(type(each).__name__ for each in outcomes) == ["Rejected"] * 4 + ["Requested"]


@BOTH
async def test_an_end_that_the_recorder_has_not_stored_is_brought_in_first(store: Store, log: MemoryLog) -> None:
    first = a_request("two", store=False)
    await outcome(first, ports(store, log))
    log.records = {first.request.response_id: ended(first, "2")}
    made = await outcome(a_request(), ports(store, log))
    assert isinstance(made, Requested)
    assert [m.text for m in made.prompt()] == ["one", "1", "two", "2", "and then?"]
    assert log.reads == 1
    told_again = await store.record(ended(first, "2"))
    assert [each.response_id for each in told_again.appended] == [first.request.response_id]
    assert await said(store) == ["one", "1", "two", "2"]
    assert await holder(store) == made.response_id


async def test_who_waits_goes_on_when_the_other_ends(store: Store, log: MemoryLog) -> None:
    """By the log, a superseded owner's end does not count; every look reads on from the one before."""
    first = a_request("two")
    first_id = first.request.response_id
    await outcome(first, ports(store, log))
    log.records = {first_id: [accepted(first_id, text="two", conversation=CONVERSATION)]}
    log.arriving = [
        Screening(response_id=first_id, epoch=1, owner="b"),
        completed(first_id, "zombie"),
        completed(first_id, "2", epoch=1),
    ]
    waiting = ports(store, log, parent_wait_s=100)
    made = await outcome(a_request(), ticking(waiting, 1))
    assert isinstance(made, Requested)
    assert [m.text for m in made.context] == ["one", "1", "two", "2"]


@BOTH
async def test_who_waits_goes_on_when_the_recorder_stores_the_end(store: Store, log: MemoryLog) -> None:
    """A log that cannot be read does not matter then."""
    first, second = a_request("two"), a_request()
    await outcome(first, ports(store, log))
    log.failures = [BrokerUnavailableError("away")] * 1_000
    waiting = asyncio.create_task(outcome(second, ticking(ports(store, log, parent_wait_s=100), 1)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await store.record(ended(first, "2"))
    made = await waiting
    assert isinstance(made, Requested)
    assert [m.text for m in made.context][-1] == "2"


async def test_a_lock_whose_response_became_nothing_is_given_back(
    store: Store, log: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Only when nothing of it can become public any more."""
    lost = an_id()
    await store.lock(TENANT, CONVERSATION, Holder(lost, NOW_MS - LOST_AFTER_MS))
    now = replace(ports(store, log), parent_wait_s=0)
    assert isinstance(await outcome(a_request(), now), Rejected)
    with caplog.at_level(logging.WARNING):
        made = await outcome(a_request(), replace(now, clock_ms=lambda: NOW_MS + 1))
    assert isinstance(made, Requested)
    assert f"{lost} became nothing" in caplog.text


async def test_a_log_that_cannot_be_read_takes_no_lock_from_anybody(store: Store, log: MemoryLog) -> None:
    await store.lock(TENANT, CONVERSATION, Holder(an_id(), 0))
    log.failures = [BrokerUnavailableError("away")]
    refusal = await outcome(a_request(), replace(ports(store, log), parent_wait_s=0))
    assert isinstance(refusal, Rejected)
    assert refusal.code == "conversation_locked"


@pytest.mark.parametrize("case", ["unknown", "foreign", "deleted"])
async def test_a_conversation_that_is_not_there_is_not_found(case: str, store: Store, log: MemoryLog) -> None:
    request = a_request()
    if case == "unknown":
        request = asked(None, conversation="conv_2")
    elif case == "foreign":
        request = ContextRequested(request=msgspec.structs.replace(request.request, tenant="other"))
    else:
        await store.erase_conversation(TENANT, CONVERSATION)
    refusal = await outcome(request, ports(store, log))
    assert isinstance(refusal, Rejected)
    assert (refusal.status, refusal.code) == (404, "conversation_not_found")


async def test_what_is_refused_gives_the_lock_back(store: Store, log: MemoryLog) -> None:
    refusal = await outcome(a_request("word " * 30), ports(store, log, window=20))
    assert isinstance(refusal, Rejected)
    assert refusal.code == "context_length_exceeded"
    assert await holder(store) is None
    late = await outcome(a_request(deadline_ms=NOW_MS), ports(store, log))
    assert isinstance(late, Rejected)
    assert late.status == 500
    assert await holder(store) is None


async def test_a_bug_gives_the_lock_back_too(store: Store, log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ports(store, log)
    monkeypatch.setattr(made.counter, "count", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await request_with_context(a_request(), made)
    assert await holder(store) is None


async def test_a_store_that_goes_away_behind_the_lock_keeps_it_for_the_next_try(log: MemoryLog) -> None:
    class Away(MemoryStore):
        async def items(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailableError("away")

    store = Away()
    await store.create_conversation(Conversation(CONVERSATION, TENANT, NOW_MS), [])
    request = a_request()
    with pytest.raises(StoreUnavailableError):
        await request_with_context(request, ports(store, log))
    assert await holder(store) == request.request.response_id


@BOTH
@pytest.mark.parametrize("stored", [True, False])
async def test_a_late_second_delivery_leaves_no_lock_behind(stored: bool, store: Store, log: MemoryLog) -> None:
    request = a_request(created_ms=NOW_MS - 5_000)
    await outcome(request, ports(store, log))
    log.records = {request.request.response_id: ended(request, "2")}
    if stored:
        await store.record(ended(request, "2"))
    assert await request_with_context(request, ports(store, log)) == []
    assert await holder(store) is None
    assert await said(store) == ["one", "1", "and then?", "2"]


@BOTH
@pytest.mark.parametrize("kept", [True, False])
async def test_a_prompt_second_delivery_leaves_no_lock_behind_either(kept: bool, store: Store, log: MemoryLog) -> None:
    """A rebalance may follow the first delivery at once; the store knows the end then, and the log is not asked."""
    request = a_request(store=kept)
    await outcome(request, ports(store, log))
    await store.record(ended(request, "2"))
    assert await request_with_context(request, ports(store, log)) == []
    assert await holder(store) is None
    assert log.reads == 0


async def test_which_of_those_that_waited_came_before_the_log_tells(store: Store, log: MemoryLog) -> None:
    late, young = a_request(created_ms=NOW_MS - 5_000), a_request()
    for request, reads in ((late, 1), (young, 1)):
        assert isinstance(await outcome(request, ports(store, log)), Requested)
        assert log.reads == reads
        await store.release(TENANT, CONVERSATION, request.request.response_id)


async def test_a_late_second_delivery_of_what_still_runs_changes_nothing(store: Store, log: MemoryLog) -> None:
    request = a_request(created_ms=NOW_MS - 5_000)
    response_id = request.request.response_id
    await outcome(request, ports(store, log))
    log.records = {response_id: [accepted(response_id, conversation=CONVERSATION), delta(response_id)]}
    assert await request_with_context(request, ports(store, log)) == []
    assert await holder(store) == response_id


async def test_an_end_that_the_store_can_never_hold_locks_nobody_out(log: MemoryLog) -> None:
    class Picky(MemoryStore):
        async def record(self, records: Any) -> Recorded:
            raise StoreRefusedError("too large")

    store, first = Picky(), a_request()
    await store.create_conversation(Conversation(CONVERSATION, TENANT, NOW_MS), [])
    await outcome(first, ports(store, log))
    log.records = {first.request.response_id: ended(first)}
    assert isinstance(await outcome(a_request(), ports(store, log)), Requested)


def folded(*records: Recordable | Delta) -> EventFold:
    fold = EventFold()
    for record in records:
        fold.apply(record)
    return fold


def test_what_the_log_says_of_a_holder() -> None:
    response_id = an_id()
    held, late_ms = Holder(response_id, FAR_MS), FAR_MS + LOST_AFTER_MS + 1
    begun, over = accepted(response_id), completed(response_id)
    assert fate(held, folded(), late_ms - 1) is Fate.RUNNING
    assert fate(held, folded(), late_ms) is Fate.LOST
    assert fate(held, folded(begun, delta(response_id)), late_ms) is Fate.RUNNING
    assert fate(held, folded(begun, over), NOW_MS) is Fate.ENDED
