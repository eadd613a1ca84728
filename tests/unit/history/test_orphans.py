"""A recorder that begins behind the beginning of a response stores it all the same, from the log, or says why not."""

import logging
from typing import Any

import pytest

from services.history.recorder import Recorder
from services.history.stores.port import Conversation, Holder, ItemPage
from shared.records import Screening
from shared.turns import turn_items
from tests.unit.history.fakes import (
    TENANT,
    MemoryLog,
    MemoryOutbox,
    MemoryStore,
    accepted,
    an_id,
    completed,
    delta,
    raw,
    turn,
)


class Offsets:
    async def commit(self, partition: int, next_offset: int) -> bool:
        return True


async def record(memory: MemoryStore, log: MemoryLog, *records: Any) -> Recorder:
    recorder = Recorder(memory, log, MemoryOutbox())
    await recorder.take([raw(each, n) for n, each in enumerate(records, start=7)], Offsets())
    return recorder


async def test_an_end_whose_beginning_the_store_lost_is_stored_from_the_log() -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), an_id()
    first, last = turn(response_id, "q", "answer")
    log.records = {response_id: [first, delta(response_id), last]}
    recorder = await record(memory, log, last)
    found = await memory.get(TENANT, response_id)
    assert found is not None and (found.accepted, found.terminal) == (first, last)
    assert recorder.recorded == 1


async def test_a_superseded_owners_end_is_not_adopted() -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), an_id()
    zombie, real = completed(response_id, "zombie", epoch=3), completed(response_id, "told", epoch=8)
    begun = [accepted(response_id, epoch=3), Screening(response_id=response_id, epoch=8, owner="b")]
    log.records = {response_id: [*begun, zombie]}
    await record(memory, log, zombie)
    assert await memory.get(TENANT, response_id) is None
    log.records = {response_id: [*begun, zombie, real]}
    await record(memory, log, real)
    found = await memory.get(TENANT, response_id)
    assert found is not None and found.terminal == real


async def test_ends_that_the_store_knows_cost_no_replay() -> None:
    memory, log, response_id, unstored = MemoryStore(), MemoryLog(), an_id(), an_id()
    first, last = turn(response_id, "q", "a")
    await record(memory, log, first, last, last, *turn(unstored, "q", "a", store=False))
    assert log.looks == 0


async def test_a_beginning_that_the_log_forgot_is_said(caplog: pytest.LogCaptureFixture) -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), an_id()
    log.gone = {response_id}
    with caplog.at_level(logging.WARNING):
        recorder = await record(memory, log, completed(response_id))
    assert "an end without its beginning cannot be stored" in caplog.text
    assert recorder.recorded == 0


@pytest.mark.parametrize("store", [True, False])
async def test_an_end_in_a_conversation_is_brought_in_from_the_log_and_told(store: bool) -> None:
    """Also of a response that is not to be stored: what it said belongs to the conversation."""
    memory, log, outbox, response_id = MemoryStore(), MemoryLog(), MemoryOutbox(), an_id()
    await memory.create_conversation(Conversation("conv_1", TENANT, 1), [])
    await memory.lock(TENANT, "conv_1", Holder(response_id, 1))
    first, last = turn(response_id, "q", "answer", conversation="conv_1", store=store)
    log.records = {response_id: [first, delta(response_id), last]}
    await Recorder(memory, log, outbox).take([raw(last, 7)], Offsets())
    page = await memory.items(TENANT, "conv_1", limit=10, order="asc")
    assert isinstance(page, ItemPage)
    assert page.items == turn_items(first, last)
    assert [sent.record.uid for sent in outbox.sent] == [f"conv_1/items_added/{response_id}"]
    conversation = await memory.conversation(TENANT, "conv_1")
    assert conversation is not None and conversation.holder is None
