"""`history.queries`: the stored response, or 404."""

from typing import Any

import pytest

from services.history.queries import count_input, erase_response, get_response
from services.history.turns import request_with_context
from shared.records import (
    CountInput,
    Deleted,
    EraseResponse,
    GetResponse,
    InputCounted,
    Rejected,
    Requested,
    ResponseErased,
    ResponseFound,
)
from shared.topics import REPLIES
from tests.unit.history.fakes import (
    FAR_MS,
    REPLY_TO,
    TENANT,
    MemoryLog,
    MemoryStore,
    accepted,
    an_id,
    asked,
    ports,
    spec,
    turn,
)


def query(response_id: str, tenant: str = "acme") -> GetResponse:
    return GetResponse(correlation_id="q_1", reply_to=REPLY_TO, tenant=tenant, response_id=response_id)


@pytest.mark.parametrize("where", ["store", "log"])
async def test_an_ended_response_is_found(where: str) -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), an_id()
    first, last = turn(response_id, "q", "a")
    if where == "store":
        await memory.record([first, last])
    else:
        log.records = {response_id: [first, last]}
    (sent,) = await get_response(query(response_id), ports(memory, log))
    assert (sent.topic, sent.partition) == (REPLIES, REPLY_TO.partition)
    assert sent.record == ResponseFound(gateway=REPLY_TO.gateway, correlation_id="q_1", accepted=first, terminal=last)


@pytest.mark.parametrize("case", ["unknown", "running", "foreign", "garbage"])
async def test_anything_else_is_404(case: str) -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), "resp_x" if case == "garbage" else an_id()
    if case == "running":
        log.records = {response_id: [accepted(response_id)]}
    elif case == "foreign":
        await memory.record(turn(response_id, "q", "secret", tenant="other"))
    (sent,) = await get_response(query(response_id), ports(memory, log))
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.correlation_id) == (404, "q_1")
    assert sent.record.message == f"Response with id '{response_id}' not found."


# -- what is to be forgotten -------------------------------------------------------------------------------------------


def erasure(response_id: str, tenant: str = TENANT) -> EraseResponse:
    return EraseResponse(correlation_id="q_1", reply_to=REPLY_TO, tenant=tenant, response_id=response_id)


@pytest.mark.parametrize("recorded", ["before", "after"])
async def test_what_was_erased_never_comes_back_however_late_the_recorder_is(recorded: str) -> None:
    memory, response_id = MemoryStore(), an_id()
    records = turn(response_id, "q", "secret")
    log = MemoryLog(records={response_id: [*records, Deleted(response_id=response_id, tenant=TENANT)]})
    if recorded == "before":
        await memory.record(records)
    for _ in range(2):
        (sent,) = await erase_response(erasure(response_id), ports(memory, log))
        assert sent.record == ResponseErased(gateway=REPLY_TO.gateway, correlation_id="q_1")
        assert sent.partition == REPLY_TO.partition
    await memory.record(log.records[response_id])
    (answer,) = await get_response(query(response_id), ports(memory, log))
    assert isinstance(answer.record, Rejected)
    (refused,) = await request_with_context(asked(response_id), ports(memory, log))
    assert isinstance(refused.record, Rejected)
    assert refused.record.code == "previous_response_not_found"


async def test_nobody_erases_anothers_response() -> None:
    memory, response_id = MemoryStore(), an_id()
    await memory.record(turn(response_id, "q", "a"))
    await erase_response(erasure(response_id, "other"), ports(memory, MemoryLog()))
    assert await memory.get(TENANT, response_id) is not None


# -- how long a prompt would be ----------------------------------------------------------------------------------------


def count(parent: str | None, text: str = "and then?", **changes: Any) -> CountInput:
    asked_for = spec(text, previous_response_id=parent, **changes)
    return CountInput(correlation_id="q_1", reply_to=REPLY_TO, tenant=TENANT, spec=asked_for, deadline_ms=FAR_MS)


async def test_a_prompt_is_counted_as_a_request_would_be() -> None:
    memory, parent = MemoryStore(), an_id()
    await memory.record(turn(parent, "one two", "three"))
    everything = ports(memory, MemoryLog())
    (sent,) = await count_input(count(parent, instructions="be brief"), everything)
    (requested,) = await request_with_context(asked(parent, instructions="be brief"), everything)
    assert isinstance(requested.record, Requested)
    tokens = requested.record.input_tokens
    assert sent.record == InputCounted(gateway=REPLY_TO.gateway, correlation_id="q_1", input_tokens=tokens)
    assert tokens == 3 + 3 + 2 + 3


async def test_a_prompt_beyond_the_window_is_counted_too_unless_it_is_to_be_shortened() -> None:
    memory, parent = MemoryStore(), an_id()
    await memory.record(turn(parent, "word " * 30, "three"))
    small = ports(memory, MemoryLog(), window=20)
    (whole,) = await count_input(count(parent), small)
    assert isinstance(whole.record, InputCounted)
    assert whole.record.input_tokens == 31 + 2 + 3
    (shortened,) = await count_input(count(parent, truncation="auto"), small)
    assert isinstance(shortened.record, InputCounted)
    assert shortened.record.input_tokens == 3
    (hopeless,) = await count_input(count(parent, "word " * 30, truncation="auto"), small)
    assert isinstance(hopeless.record, Rejected)
    assert hopeless.record.code == "context_length_exceeded"
    assert "64 tokens exceeds the model's window of 20 tokens" in hopeless.record.message


async def test_an_unknown_parent_of_a_count_is_named() -> None:
    (sent,) = await count_input(count(an_id()), ports(MemoryStore(), MemoryLog()))
    assert isinstance(sent.record, Rejected)
    assert (sent.record.code, sent.record.param) == ("previous_response_not_found", "previous_response_id")
