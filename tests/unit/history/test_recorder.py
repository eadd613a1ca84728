"""The recorder: batches into the store, commits behind it, nothing skipped, nothing blocked."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.history import recorder as module
from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.recorder import Recorder
from services.history.stores.port import Conversation, Recordable, Recorded
from shared import patience
from shared.control import Outgoing
from shared.errors import AppendError, LogError
from shared.records import ConversationUpdated, Delete, Deleted
from shared.records.codec import encode_headers
from shared.telemetry import inject, names
from shared.topics import CONVERSATIONS, JOURNAL
from shared.turns import turn_items
from tests.unit.history.fakes import (
    TENANT,
    MemoryLog,
    MemoryOutbox,
    MemoryStore,
    an_id,
    broken,
    completed,
    delta,
    raw,
    turn,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Offsets:
    """A group consumer's commits; fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.committed: dict[int, int] = {}
        self._failures = failures

    async def commit(self, partition: int, next_offset: int) -> bool:
        if self._failures:
            self._failures -= 1
            raise LogError("commit failed")
        self.committed[partition] = next_offset
        return True


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)


async def test_stores_what_counts_and_commits_behind_the_batch() -> None:
    memory, offsets, response_id = MemoryStore(), Offsets(), an_id()
    first, last = turn(response_id, "q", "answer")
    recorder = Recorder(memory, MemoryLog(), MemoryOutbox())
    await recorder.take([raw(first, 7), raw(delta(response_id), 8), raw(last, 9), raw(first, 3, partition=1)], offsets)
    assert await memory.get(TENANT, response_id) is not None
    assert offsets.committed == {3: 10, 1: 4}
    assert recorder.recorded == 1


async def test_deltas_are_dropped_before_they_are_decoded() -> None:
    unreadable = broken(5)
    headers = tuple(encode_headers(delta(an_id()), "test"))
    skipped = type(unreadable)(3, 5, 0, "x", b"{not json", headers)
    outbox, offsets = MemoryOutbox(), Offsets()
    await Recorder(MemoryStore(), MemoryLog(), outbox).take([skipped], offsets)
    assert outbox.buried == []
    assert offsets.committed == {3: 6}


async def test_an_absent_store_and_an_absent_broker_are_waited_for() -> None:
    memory, outbox, offsets, response_id = MemoryStore(), MemoryOutbox(), Offsets(failures=2), an_id()
    memory.failures = [StoreUnavailableError("locked")] * 3
    outbox.failures = [AppendError("away")]
    batch = [broken(0), *(raw(r, n) for n, r in enumerate(turn(response_id, "q", "a"), start=1))]
    await Recorder(memory, MemoryLog(), outbox).take(batch, offsets)
    assert await memory.get(TENANT, response_id) is not None
    assert outbox.buried == [("responses.events", 0, 1)]
    assert offsets.committed == {3: 3}


async def test_a_record_that_the_store_refuses_goes_aside_and_takes_no_other_with_it() -> None:
    class Picky(MemoryStore):
        async def record(self, records: Sequence[Recordable]) -> Recorded:
            if any(record.response_id == poison for record in records):
                raise StoreRefusedError("too large")
            return await super().record(records)

    memory, outbox, offsets = Picky(), MemoryOutbox(), Offsets()
    poison, response_id = an_id(), an_id()
    records = [*turn(response_id, "q", "a"), *turn(poison, "q", "a")]
    await Recorder(memory, MemoryLog(), outbox).take([raw(r, n) for n, r in enumerate(records)], offsets)
    assert await memory.get(TENANT, response_id) is not None
    assert outbox.buried == [("responses.events", 2, 3), ("responses.events", 3, 3)]
    assert offsets.committed == {3: 4}


async def test_an_unusable_store_ends_the_service_and_commits_nothing() -> None:
    memory, offsets = MemoryStore(), Offsets()
    memory.failures = [StoreError("malformed")]
    with pytest.raises(StoreError):
        await Recorder(memory, MemoryLog(), MemoryOutbox()).take([raw(completed(an_id()), 0)], offsets)
    assert offsets.committed == {}


async def test_one_span_per_stored_response_in_the_trace_of_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    response_id, other = an_id(), an_id()
    first, last = turn(response_id, "q", "a")
    recorder, headers = Recorder(MemoryStore(), MemoryLog(), MemoryOutbox()), {"traceparent": TRACEPARENT}
    batch = [raw(first, 0, trace=headers), raw(last, 1, trace=headers), raw(completed(other), 2, trace=headers)]
    for _ in range(2):
        await recorder.take(batch, Offsets())
    (span,) = exporter.get_finished_spans()
    assert span.name == names.RECORD
    assert f"{span.context.trace_id:032x}" == TRACEPARENT.split("-")[1]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == TRACEPARENT.split("-")[2]
    assert span.attributes is not None
    assert span.attributes[names.RESPONSE_ID] == response_id


# -- what others are told ----------------------------------------------------------------------------------------------

CONVERSATION = "conv_1"


async def conversing() -> MemoryStore:
    memory = MemoryStore()
    await memory.create_conversation(Conversation(CONVERSATION, TENANT, 1), [])
    return memory


def in_conversation(response_id: str, **changes: Any) -> list[Any]:
    return turn(response_id, "q", "a", conversation=CONVERSATION, **changes)


def records(outbox: MemoryOutbox) -> list[Any]:
    return [sent.record for sent in outbox.sent]


@pytest.mark.parametrize("store", [True, False])
async def test_what_came_into_a_conversation_is_told_before_the_commit_and_again_after_a_fault(store: bool) -> None:
    class Strict(Offsets):
        async def commit(self, partition: int, next_offset: int) -> bool:
            assert outbox.sent, "a crash now would leave it untold"
            return await super().commit(partition, next_offset)

    memory, response_id = await conversing(), an_id()
    outbox = MemoryOutbox(failures=[AppendError("away")] * 3)
    first, last = in_conversation(response_id, store=store)
    batch = [raw(first, 0), raw(last, 1)]
    item_ids = [item.id for item in turn_items(first, last)]
    told = ConversationUpdated(
        conversation_id=CONVERSATION,
        tenant=TENANT,
        change="items_added",
        operation=response_id,
        item_ids=item_ids,
    )
    for times in (1, 2):
        offsets = Strict()
        await Recorder(memory, MemoryLog(), outbox).take(batch, offsets)
        assert records(outbox) == [told] * times
        assert offsets.committed == {3: 2}
    assert all(sent.topic is CONVERSATIONS for sent in outbox.sent)


async def test_what_ends_in_no_conversation_is_told_to_nobody() -> None:
    outbox = MemoryOutbox()
    batch = [raw(record, n) for n, record in enumerate(turn(an_id(), "q", "a"))]
    await Recorder(await conversing(), MemoryLog(), outbox).take(batch, Offsets())
    assert outbox.sent == []


async def test_items_that_go_with_a_deleted_response_are_told() -> None:
    memory, outbox, response_id = await conversing(), MemoryOutbox(), an_id()
    told = [*in_conversation(response_id), Deleted(response_id=response_id, tenant=TENANT)]
    await Recorder(memory, MemoryLog(), outbox).take([raw(record, n) for n, record in enumerate(told)], Offsets())
    gone = [record for record in records(outbox) if record.change == "item_deleted"]
    assert [(each.operation, each.item_ids) for each in gone] == [
        (response_id, [item.id for item in turn_items(told[0], told[1])])
    ]


async def test_a_response_that_ends_in_a_deleted_conversation_is_deleted_in_public() -> None:
    memory, outbox, response_id = await conversing(), MemoryOutbox(), an_id()
    first, last = in_conversation(response_id)
    recorder = Recorder(memory, MemoryLog(), outbox)
    await recorder.take([raw(first, 0)], Offsets())
    await memory.erase_conversation(TENANT, CONVERSATION)
    await recorder.take([raw(last, 1)], Offsets())
    assert [(sent.topic, sent.record) for sent in outbox.sent] == [
        (JOURNAL, Delete(response_id=response_id, tenant=TENANT))
    ]
    assert await memory.get(TENANT, response_id) is None


async def test_what_is_told_belongs_to_the_trace_of_its_response() -> None:
    seen: list[str] = []

    class Traced(MemoryOutbox):
        async def send(self, outgoing: Outgoing) -> None:
            seen.append(inject().get("traceparent", ""))
            await super().send(outgoing)

    response_id = an_id()
    batch = [
        raw(record, n, trace={"traceparent": TRACEPARENT}) for n, record in enumerate(in_conversation(response_id))
    ]
    await Recorder(await conversing(), MemoryLog(), Traced()).take(batch, Offsets())
    assert [each.split("-")[1] for each in seen] == [TRACEPARENT.split("-")[1]]
    assert not trace.get_current_span().get_span_context().is_valid
