"""Who has read an answer to its end finds it in the conversation, though the recorder may be behind."""

from typing import Any

import pytest

from services.history.handlers import HANDLERS
from services.history.stores.port import Conversation, Holder
from shared.records import EraseItem, GetItem, ItemsFound, ListItems
from shared.turns import turn_items
from tests.unit.history.fakes import FAR_MS, REPLY_TO, TENANT, MemoryLog, MemoryStore, an_id, ports, turn

CONVERSATION = "conv_1"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(ListItems, {"limit": 20, "order": "asc"}), (GetItem, {"item_id": "answer"}), (EraseItem, {"item_id": "answer"})],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_turn_that_ended_is_there_before_it_is_recorded(kind: Any, fields: dict[str, Any]) -> None:
    store, log, response_id = MemoryStore(), MemoryLog(), an_id()
    made = ports(store, log)
    await store.create_conversation(Conversation(CONVERSATION, TENANT, 1), [])
    await store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    log.records[response_id] = turn(response_id, "two", "2", conversation=CONVERSATION)
    brought = turn_items(*log.records[response_id])
    named = {"item_id": brought[-1].id} if "item_id" in fields else {}
    base = {"correlation_id": "q", "reply_to": REPLY_TO, "tenant": TENANT, "conversation_id": CONVERSATION}
    *_, answer = await HANDLERS[kind](kind(**base, **(fields | named)), made)
    if kind is ListItems:
        assert isinstance(answer.record, ItemsFound)
        assert answer.record.items == brought
    if kind is GetItem:
        assert answer.record.items == brought[-1:]
    page = await store.items(TENANT, CONVERSATION, limit=20, order="asc")
    assert [item.id for item in page.items] == [item.id for item in brought[: 1 if kind is EraseItem else 2]]
