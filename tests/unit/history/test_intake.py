"""A record of the control plane becomes its acknowledged answers; none is skipped."""

import asyncio

import pytest

from services.history import handlers
from services.history.errors import StoreUnavailableError
from services.history.intake import MAX_ATTEMPTS, HistoryHandler
from services.history.ports import Ports
from services.history.stores.port import Conversation, Holder
from shared import patience
from shared.control import Outgoing
from shared.errors import AppendError, BrokerUnavailableError, RecordRefusedError
from shared.log import RawRecord
from shared.records import (
    ConversationDeleted,
    ConversationErased,
    EraseConversation,
    GetResponse,
    Rejected,
    ReleaseConversation,
    Requested,
    ResponseFound,
)
from shared.topics import CONTEXT, HISTORY_QUERIES, REPLIES
from tests.unit.history.fakes import (
    NOW_MS,
    REPLY_TO,
    MemoryLog,
    MemoryOutbox,
    MemoryStore,
    an_id,
    asked,
    broken,
    ports,
    raw,
    turn,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)


async def handled(record: RawRecord, made: Ports, outbox: MemoryOutbox, topic=CONTEXT) -> None:  # type: ignore[no-untyped-def]
    await asyncio.wait_for(HistoryHandler(topic, made, outbox)(record), 5)


async def test_a_request_becomes_its_outcome() -> None:
    memory, outbox, parent = MemoryStore(), MemoryOutbox(), an_id()
    await memory.record(turn(parent, "one", "1"))
    await handled(raw(asked(parent), 4), ports(memory, MemoryLog()), outbox)
    (sent,) = outbox.sent
    assert isinstance(sent.record, Requested)


async def test_store_and_broker_that_are_away_are_waited_for() -> None:
    memory, log, outbox, parent = MemoryStore(), MemoryLog(), MemoryOutbox(), an_id()
    log.records = {parent: turn(parent, "one", "1")}
    log.failures = [StoreUnavailableError("locked"), AppendError("away")] * 4
    outbox.failures = [AppendError("away")] * 4
    await handled(raw(asked(parent), 4), ports(memory, log), outbox)
    assert [type(sent.record) for sent in outbox.sent] == [Requested]
    assert outbox.buried == []


def a_query() -> GetResponse:
    return GetResponse(correlation_id="q", reply_to=REPLY_TO, tenant="acme", response_id=an_id())


@pytest.mark.parametrize(
    ("error", "away"), [(StoreUnavailableError("locked"), "store"), (BrokerUnavailableError("gone"), "message log")]
)
async def test_who_asks_while_nobody_can_tell_hears_so_at_once(error: Exception, away: str) -> None:
    outbox, log = MemoryOutbox(), MemoryLog(failures=[error])
    await handled(raw(a_query(), 4), ports(MemoryStore(), log), outbox, HISTORY_QUERIES)
    (sent,) = outbox.sent
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.error_type, sent.record.correlation_id) == (503, "server_error", "q")
    assert f"The {away} of past responses" in sent.record.message
    assert log.failures == []
    assert outbox.buried == []


async def test_a_request_waits_for_the_store_until_its_deadline_then_hears_what_was_missing() -> None:
    memory, outbox = MemoryStore(), MemoryOutbox()
    memory.failures = [StoreUnavailableError("locked")] * 1_000
    request = asked(an_id(), deadline_ms=NOW_MS + 300)
    started_s = asyncio.get_running_loop().time()
    await handled(raw(request, 4), ports(memory, MemoryLog()), outbox)
    assert 0.1 < asyncio.get_running_loop().time() - started_s < 3
    (sent,) = outbox.sent
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.correlation_id) == (503, request.request.response_id)
    assert "store" in sent.record.message
    assert outbox.buried == []


async def test_what_nobody_waits_for_is_done_however_long_it_takes() -> None:
    memory, outbox = MemoryStore(), MemoryOutbox()
    memory.failures = [StoreUnavailableError("locked")] * 5
    released = ReleaseConversation(conversation_id="conv_1", response_id=an_id(), tenant="acme")
    await handled(raw(released, 4), ports(memory, MemoryLog()), outbox, HISTORY_QUERIES)
    assert (memory.failures, outbox.sent, outbox.buried) == ([], [], [])


async def test_an_answer_goes_out_behind_all_that_it_relies_on() -> None:
    class Late(MemoryOutbox):
        async def send(self, outgoing: Outgoing) -> None:
            await asyncio.sleep(0 if outgoing.topic is REPLIES else 0.01)
            await super().send(outgoing)

    memory, outbox = MemoryStore(), Late(failures=[AppendError("away")])
    await memory.create_conversation(Conversation("conv_1", "acme", NOW_MS), [])
    query = EraseConversation(correlation_id="q", reply_to=REPLY_TO, tenant="acme", conversation_id="conv_1")
    await handled(raw(query, 4), ports(memory, MemoryLog()), outbox, HISTORY_QUERIES)
    assert [type(sent.record) for sent in outbox.sent] == [ConversationDeleted, ConversationErased]


async def test_an_unreadable_record_goes_aside() -> None:
    outbox = MemoryOutbox(failures=[AppendError("away")])
    await handled(broken(4), ports(MemoryStore(), MemoryLog()), outbox)
    assert outbox.buried == [("context.requested", 4, 1)]
    assert outbox.sent == []


@pytest.mark.parametrize(
    "record", [asked("p"), GetResponse(correlation_id="q", reply_to=REPLY_TO, tenant="t", response_id="r")]
)
async def test_a_handlers_bug_is_put_aside_and_the_client_told(
    record: GetResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def buggy(_: object, __: Ports) -> list[Outgoing]:
        calls.append(1)
        raise KeyError("bug")

    monkeypatch.setitem(handlers.HANDLERS, type(record), buggy)
    outbox = MemoryOutbox()
    topic = HISTORY_QUERIES if isinstance(record, GetResponse) else CONTEXT
    await handled(raw(record, 4), ports(MemoryStore(), MemoryLog()), outbox, topic)
    assert outbox.buried == [(topic.name, 4, MAX_ATTEMPTS)]
    assert len(calls) == MAX_ATTEMPTS
    (sent,) = outbox.sent
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.error_type) == (500, "server_error")


async def test_an_answer_that_no_broker_takes_is_put_aside_and_its_conversation_given_back() -> None:
    memory, outbox = MemoryStore(), MemoryOutbox(failures=[RecordRefusedError("too long")])
    await memory.create_conversation(Conversation("conv_1", "acme", NOW_MS), [])
    record = asked(None, conversation="conv_1")
    await handled(raw(record, 4), ports(memory, MemoryLog()), outbox)
    assert outbox.buried == [("context.requested", 4, 1)]
    assert [sent.record.status for sent in outbox.sent if isinstance(sent.record, Rejected)] == [500]
    next_one = await memory.lock("acme", "conv_1", Holder(an_id(), NOW_MS))
    assert next_one is not None and next_one.holder is not None
    assert next_one.holder.response_id != record.request.response_id


async def test_a_query_is_answered() -> None:
    memory, outbox, response_id = MemoryStore(), MemoryOutbox(), an_id()
    await memory.record(turn(response_id, "q", "a"))
    query = GetResponse(correlation_id="q", reply_to=REPLY_TO, tenant="acme", response_id=response_id)
    await handled(raw(query, 0), ports(memory, MemoryLog()), outbox, HISTORY_QUERIES)
    assert isinstance(outbox.sent[0].record, ResponseFound)


def test_every_record_of_our_topics_has_a_handler() -> None:
    carried = {kind for topic in (CONTEXT, HISTORY_QUERIES) for kind in topic.record_types}
    assert set(handlers.HANDLERS) == carried
