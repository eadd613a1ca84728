"""Short ways to build conversations, and to look into them."""

from collections.abc import Sequence
from typing import Any

from services.history.stores.port import Conversation, Holder, ItemPage, NotThere, Retention, Store
from shared.ids import new_id
from shared.records import Item
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, accepted, an_id, completed, turn

OTHER = "other"
RETENTION = Retention(response_ms=1_000_000, tombstone_ms=5_000_000)
TOMBSTONE_GONE_MS = NOW_MS + RETENTION.tombstone_ms


def an_item(text: str = "hello", **changes: Any) -> Item:
    return Item(**{"id": new_id("msg"), "role": "user", "parts": [text], **changes})


def some_items(count: int) -> list[Item]:
    return [an_item(f"item {number}") for number in range(count)]


async def begin(store: Store, items: Sequence[Item] = (), *, tenant: str = TENANT, **metadata: str) -> str:
    """A new conversation's id."""
    conversation = Conversation(new_id("conv"), tenant, NOW_MS, metadata)
    assert await store.create_conversation(conversation, items) == conversation
    return conversation.id


def holder(response_id: str | None = None) -> Holder:
    return Holder(response_id or an_id(), FAR_MS)


async def said(store: Store, conversation_id: str, text: str = "q", answer: str = "a", /, **changes: Any) -> str:
    """The id of a response that ran in the conversation from its lock to its end."""
    response_id = an_id()
    tenant = changes.get("tenant", TENANT)
    await store.lock(tenant, conversation_id, holder(response_id))
    await store.record(turn(response_id, text, answer, conversation=conversation_id, **changes))
    return response_id


async def items_of(store: Store, conversation_id: str, tenant: str = TENANT) -> list[Item]:
    """All of them, in order."""
    page = await store.items(tenant, conversation_id, limit=1_000, order="asc")
    assert isinstance(page, ItemPage) and not page.has_more
    return page.items


async def texts_of(store: Store, conversation_id: str) -> list[str]:
    return [item.message.text for item in await items_of(store, conversation_id)]


async def holder_of(store: Store, conversation_id: str) -> str | None:
    """The id of the response that holds the lock."""
    found = await store.conversation(TENANT, conversation_id)
    assert found is not None
    return found.holder and found.holder.response_id


async def is_gone(store: Store, conversation_id: str, tenant: str = TENANT) -> bool:
    page = await store.items(tenant, conversation_id, limit=1, order="asc")
    found = await store.conversation(tenant, conversation_id)
    assert (found is None) == (page is NotThere.CONVERSATION)
    return found is None


async def everything(store: Store) -> None:
    """Every operation of the port once, on a few documents."""
    conversation_id = await begin(store, some_items(3), topic="all")
    response_id = await said(store, conversation_id)
    child = an_id()
    await store.record([accepted(child, previous_response_id=response_id), completed(child)])
    await store.chain(TENANT, child, 10)
    await store.set_metadata(TENANT, conversation_id, {"topic": "some"})
    await store.add_items(TENANT, conversation_id, some_items(2))
    items = await items_of(store, conversation_id)
    await store.items(TENANT, conversation_id, limit=2, order="desc", after=items[3].id)
    await store.item(TENANT, conversation_id, items[0].id)
    await store.erase_item(TENANT, conversation_id, items[0].id)
    await store.erase_conversation(TENANT, conversation_id)
    await store.forget_expired(NOW_MS + 10_000, 100)
