"""`context.requested`: what goes on into the journal, and what is refused with which words."""

from typing import Any

import msgspec
import pytest

from services.history.errors import StoreUnavailableError
from services.history.stores.port import StoredResponse
from services.history.turns import request_with_context
from shared.errors import BrokerUnavailableError
from shared.records import ContextRequested, Failed, Rejected, Requested, Screening, Usage
from shared.topics import JOURNAL, REPLIES
from tests.unit.history.fakes import (
    NOW_MS,
    REPLY_TO,
    MemoryLog,
    MemoryStore,
    accepted,
    an_id,
    asked,
    completed,
    delta,
    ports,
    turn,
    user,
)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def ask(memory: MemoryStore, log: MemoryLog, parent: str | None, window: int = 1_000, **changes: Any) -> Any:
    """The one record that the handler sent, after checking that it went to the right place."""
    event = asked(parent, **changes)
    (sent,) = await request_with_context(event, ports(memory, log, window=window))
    if isinstance(sent.record, Requested):
        assert (sent.topic, sent.partition) == (JOURNAL, None)
        assert sent.record.response_id == event.request.response_id
        return sent.record
    assert isinstance(sent.record, Rejected)
    assert (sent.topic, sent.partition) == (REPLIES, REPLY_TO.partition)
    assert (sent.record.gateway, sent.record.correlation_id) == (REPLY_TO.gateway, event.request.response_id)
    return sent.record


def texts(request: Requested) -> list[str]:
    return [message.text for message in request.prompt()]


async def test_the_chain_comes_from_the_store(memory: MemoryStore, log: MemoryLog) -> None:
    first, second = an_id(), an_id()
    await memory.record([*turn(first, "one", "1"), *turn(second, "two", "2", first)])
    assert texts(await ask(memory, log, second)) == ["one", "1", "two", "2", "and then?"]
    assert log.looks == 0


async def test_what_only_the_gateway_knows_follows_what_history_tells(memory: MemoryStore, log: MemoryLog) -> None:
    stored, unstored = an_id(), an_id()
    await memory.record(turn(stored, "one", "1"))
    event = asked(unstored)
    since = msgspec.structs.replace(event.request, context=[user("two"), user("2")])
    (sent,) = await request_with_context(ContextRequested(request=since, base=stored), ports(memory, log))
    assert isinstance(sent.record, Requested)
    assert texts(sent.record) == ["one", "1", "two", "2", "and then?"]
    assert sent.record.spec.previous_response_id == unstored
    (refused,) = await request_with_context(ContextRequested(request=since, base=an_id()), ports(memory, log))
    assert isinstance(refused.record, Rejected)
    assert refused.record.code == "previous_response_not_found"


async def test_all_turns_of_a_chain_prefer_the_same_worker(memory: MemoryStore, log: MemoryLog) -> None:
    """By the id of its first response, as far as anybody knows it."""
    first, second, third = an_id(), an_id(), an_id()
    await memory.record([*turn(first, "one", "1"), *turn(second, "two", "2", first)])
    log.records = {third: turn(third, "three", "3", second)}
    for parent in (first, second, third):
        made = await ask(memory, log, parent)
        assert (made.chain, made.affinity_key) == (first, first)
    chosen = await ask(memory, log, second, prompt_cache_key="mine")
    assert chosen.affinity_key == "mine"


async def test_turns_that_the_recorder_has_not_stored_come_from_the_log(memory: MemoryStore, log: MemoryLog) -> None:
    first, second, third = an_id(), an_id(), an_id()
    log.records = {first: turn(first, "one", "1"), third: turn(third, "three", "3", second)}
    await memory.record(turn(second, "two", "2", first))
    assert texts(await ask(memory, log, third)) == ["one", "1", "two", "2", "three", "3", "and then?"]


async def test_a_parent_that_still_speaks_is_waited_for(memory: MemoryStore, log: MemoryLog) -> None:
    parent = an_id()
    log.records = {parent: [accepted(parent, text="one")]}
    log.arriving = [
        delta(parent, "ans"),
        Screening(response_id=parent, epoch=1, owner="b"),
        completed(parent, "zombie"),
        completed(parent, "answer", epoch=1),
    ]
    assert texts(await ask(memory, log, parent)) == ["one", "answer", "and then?"]
    assert log.looks >= 5


async def test_a_parent_that_does_not_end_in_time_is_refused_clearly(memory: MemoryStore, log: MemoryLog) -> None:
    parent = an_id()
    log.records = {parent: [accepted(parent)]}
    ticking = iter(range(NOW_MS, NOW_MS + 10_000, 40))
    slow = ports(memory, log)
    object.__setattr__(slow, "clock_ms", lambda: next(ticking))
    (sent,) = await request_with_context(asked(parent), slow)
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.code) == (400, "previous_response_in_progress")
    assert parent in sent.record.message


@pytest.mark.parametrize("case", ["unknown", "garbage", "partition", "foreign", "log foreign", "failed", "unstored"])
async def test_a_parent_that_is_not_there_is_not_found(case: str, memory: MemoryStore, log: MemoryLog) -> None:
    parent = {"garbage": "resp_nonsense", "partition": an_id(partition=4000)}.get(case) or an_id()
    failed = Failed(
        response_id=parent,
        tenant="acme",
        text="",
        usage=Usage(input_tokens=1, output_tokens=0),
        finished_ms=1,
        code="server_error",
        message="m",
    )
    if case == "foreign":
        await memory.record(turn(parent, "q", "secret", tenant="other"))
    elif case == "log foreign":
        log.records = {parent: turn(parent, "q", "secret", tenant="other")}
    elif case == "failed":
        await memory.record([accepted(parent), failed])
    elif case == "unstored":
        log.records = {parent: turn(parent, "q", "a", store=False)}
    refusal = await ask(memory, log, parent)
    assert (refusal.status, refusal.code, refusal.param) == (400, "previous_response_not_found", "previous_response_id")
    assert refusal.message == f"Previous response with id '{parent}' not found."
    assert refusal.error_type == "invalid_request_error"


async def test_a_parent_beyond_the_retention_and_not_stored_is_not_found(memory: MemoryStore, log: MemoryLog) -> None:
    parent = an_id()
    log.gone = {parent}
    assert (await ask(memory, log, parent)).code == "previous_response_not_found"


async def test_a_prompt_longer_than_the_window_is_refused_with_both_numbers(
    memory: MemoryStore, log: MemoryLog
) -> None:
    parent = an_id()
    await memory.record(turn(parent, "word " * 30, "answer"))
    refusal = await ask(memory, log, parent, window=20)
    assert (refusal.status, refusal.code) == (400, "context_length_exceeded")
    assert "36 tokens" in refusal.message
    assert "20 tokens" in refusal.message


async def test_an_unknown_conversation_is_not_found(memory: MemoryStore, log: MemoryLog) -> None:
    refusal = await ask(memory, log, None, conversation="conv_1")
    assert (refusal.status, refusal.code) == (404, "conversation_not_found")


async def test_after_the_deadline_nothing_enters_the_journal(memory: MemoryStore, log: MemoryLog) -> None:
    refusal = await ask(memory, log, an_id(), deadline_ms=NOW_MS)
    assert (refusal.status, refusal.error_type) == (500, "server_error")


async def test_an_absent_broker_is_not_an_answer(memory: MemoryStore, log: MemoryLog) -> None:
    log.failures = [BrokerUnavailableError("away")]
    with pytest.raises(BrokerUnavailableError):
        await request_with_context(asked(an_id()), ports(memory, log))


async def test_a_request_given_twice_comes_out_twice_the_same(memory: MemoryStore, log: MemoryLog) -> None:
    parent = an_id()
    await memory.record(turn(parent, "one", "1"))
    event = asked(parent)
    made = ports(memory, log)
    assert await request_with_context(event, made) == await request_with_context(event, made)


class AwayStore(MemoryStore):
    """Does not answer the first `away` looks; `arriving` is recorded meanwhile."""

    def __init__(self, away: int = 0, arriving: list[Any] | None = None) -> None:
        super().__init__()
        self.away = away
        self.arriving = arriving or []

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        if self.away:
            self.away -= 1
            raise StoreUnavailableError("away")
        found = await super().chain(tenant, response_id, limit)
        await self.record(self.arriving)
        return found


async def test_the_log_stands_in_for_a_store_that_does_not_answer(log: MemoryLog) -> None:
    first, second = an_id(), an_id()
    log.records = {first: turn(first, "one", "1"), second: turn(second, "two", "2", first)}
    assert texts(await ask(AwayStore(away=100), log, second)) == ["one", "1", "two", "2", "and then?"]


async def test_what_the_log_does_not_know_is_unknown_only_if_the_store_says_so(log: MemoryLog) -> None:
    with pytest.raises(StoreUnavailableError):
        await ask(AwayStore(away=100), log, an_id())
    assert (await ask(AwayStore(away=1), log, an_id())).code == "previous_response_not_found"


async def test_a_turn_that_was_recorded_while_the_log_forgot_it_is_found(log: MemoryLog) -> None:
    parent = an_id()
    log.gone = {parent}
    assert texts(await ask(AwayStore(arriving=turn(parent, "one", "1")), log, parent)) == ["one", "1", "and then?"]


async def test_whether_a_request_without_a_lock_came_before_is_left_to_its_owner(
    memory: MemoryStore, log: MemoryLog
) -> None:
    """A look reads all that the partition was told since: what waited for its parent would only get later."""
    parent = an_id()
    await memory.record(turn(parent, "one", "1"))
    late = asked(parent, created_ms=NOW_MS - 5_000)
    log.records[late.request.response_id] = turn(late.request.response_id, "q", "a")
    (sent,) = await request_with_context(late, ports(memory, log))
    assert isinstance(sent.record, Requested)
    assert log.reads == 0
