"""Questions about conversations: `history.queries` in, `gateway.replies` out, and what changed on the way.

Whatever a question changes is told on `conversations.events` once the store has it, and before its answer. A question
that is delivered twice does and tells the same again. Who asks for items finds those of every response whose end is
public: where the recorder is behind, it is stored first.
"""

from services.history.locks import freed
from services.history.ports import Ports
from services.history.replies import LOCKED, not_found, refused, reply
from services.history.stores.port import Addition, Conversation, NotThere
from services.history.telling import event, items_changed, response_deleted
from shared.control import Outgoing
from shared.records import (
    AddItems,
    ConversationCreated,
    ConversationDeleted,
    ConversationErased,
    ConversationFound,
    ConversationQuery,
    ConversationUpdated,
    CreateConversation,
    EraseConversation,
    EraseItem,
    GetConversation,
    GetItem,
    Item,
    ItemsFound,
    ListItems,
    ReleaseConversation,
    UpdateConversation,
)
from shared.topics import REPLIES

PAGE_BYTES = REPLIES.max_message_bytes * 3 // 4
"""What the items of one reply may take: an item is no longer than a request, so one always fits beside the rest."""


async def create_conversation(query: CreateConversation, ports: Ports) -> list[Outgoing]:
    """Begin it. One that stood there before is answered as it stands, and not told of again."""
    wanted = Conversation(query.conversation_id, query.tenant, query.created_ms, query.metadata)
    made = await ports.store.create_conversation(wanted, query.items)
    if made is None:
        return _unknown(query)
    created = ConversationCreated(
        conversation_id=made.id,
        tenant=made.tenant,
        created_ms=query.created_ms,
        item_ids=[item.id for item in query.items],
    )
    told = [event(created)] if made.created_ms == query.created_ms else []
    return [*told, _found(query, made)]


async def get_conversation(query: GetConversation, ports: Ports) -> list[Outgoing]:
    """Answer with the conversation as it stands."""
    found = await ports.store.conversation(*_where(query))
    return [_found(query, found)] if found is not None else _unknown(query)


async def update_conversation(query: UpdateConversation, ports: Ports) -> list[Outgoing]:
    """Replace its metadata."""
    changed = await ports.store.set_metadata(*_where(query), query.metadata)
    if changed is None:
        return _unknown(query)
    updated = ConversationUpdated(
        conversation_id=changed.id,
        tenant=changed.tenant,
        change="metadata",
        operation=query.correlation_id,
    )
    return [event(updated), _found(query, changed)]


async def erase_conversation(query: EraseConversation, ports: Ports) -> list[Outgoing]:
    """Forget it and what ran in it; the public log hears of each response too, so that no replay shows it again."""
    erased = await ports.store.erase_conversation(*_where(query))
    if erased is None:
        return _unknown(query)
    deleted = ConversationDeleted(conversation_id=query.conversation_id, tenant=query.tenant)
    answer = ConversationErased(gateway=query.reply_to.gateway, correlation_id=query.correlation_id)
    return [
        *(response_deleted(query.tenant, response_id) for response_id in erased),
        event(deleted),
        reply(query.reply_to, answer),
    ]


async def add_items(query: AddItems, ports: Ports) -> list[Outgoing]:
    """Append items, unless a response runs there; one that has ended is brought in first."""
    outcome = await ports.store.add_items(*_where(query), query.items)
    if outcome is Addition.LOCKED and await freed(ports, *_where(query)):
        outcome = await ports.store.add_items(*_where(query), query.items)
    if outcome is Addition.NOT_FOUND:
        return _unknown(query)
    if outcome is Addition.LOCKED:
        return [refused(query.reply_to, query.correlation_id, LOCKED)]
    added = items_changed("items_added", *_where(query), query.correlation_id, [item.id for item in query.items])
    return [added, _items(query, query.items)]


async def list_items(query: ListItems, ports: Ports) -> list[Outgoing]:
    """Answer with a page of its items: fewer than were asked for, if more would not fit into a record."""
    await freed(ports, *_where(query))
    page = await ports.store.items(
        *_where(query),
        limit=query.limit,
        order=query.order,
        after=query.after,
        max_bytes=PAGE_BYTES,
    )
    if isinstance(page, NotThere):
        return _not_there(query, page, query.after)
    return [_items(query, page.items, has_more=page.has_more)]


async def get_item(query: GetItem, ports: Ports) -> list[Outgoing]:
    """Answer with one item."""
    await freed(ports, *_where(query))
    found = await ports.store.item(*_where(query), query.item_id)
    return _not_there(query, found, query.item_id) if isinstance(found, NotThere) else [_items(query, [found])]


async def erase_item(query: EraseItem, ports: Ports) -> list[Outgoing]:
    """Forget one item, and the response that brought it; the answer is the conversation."""
    await freed(ports, *_where(query))
    brought_by = await ports.store.erase_item(*_where(query), query.item_id)
    if isinstance(brought_by, NotThere):
        return _not_there(query, brought_by, query.item_id)
    told = [items_changed("item_deleted", *_where(query), query.correlation_id, [query.item_id])]
    if brought_by is not None:
        told.append(response_deleted(query.tenant, brought_by))
    left = await ports.store.conversation(*_where(query))
    return [*told, *([_found(query, left)] if left is not None else _unknown(query))]


async def release_conversation(asked: ReleaseConversation, ports: Ports) -> list[Outgoing]:
    """Give the lock of a request back that became nothing."""
    await ports.store.release(asked.tenant, asked.conversation_id, asked.response_id)
    return []


def _where(query: ConversationQuery) -> tuple[str, str]:
    return query.tenant, query.conversation_id


def _found(query: ConversationQuery, found: Conversation) -> Outgoing:
    answer = ConversationFound(
        gateway=query.reply_to.gateway,
        correlation_id=query.correlation_id,
        conversation_id=found.id,
        created_ms=found.created_ms,
        metadata=dict(found.metadata),
    )
    return reply(query.reply_to, answer)


def _items(query: ConversationQuery, items: list[Item], *, has_more: bool = False) -> Outgoing:
    answer = ItemsFound(
        gateway=query.reply_to.gateway, correlation_id=query.correlation_id, items=items, has_more=has_more
    )
    return reply(query.reply_to, answer)


def _unknown(query: ConversationQuery) -> list[Outgoing]:
    return [refused(query.reply_to, query.correlation_id, not_found("Conversation", query.conversation_id))]


def _not_there(query: ConversationQuery, what: NotThere, item_id: str | None) -> list[Outgoing]:
    if what is NotThere.CONVERSATION:
        return _unknown(query)
    return [refused(query.reply_to, query.correlation_id, not_found("Item", item_id or ""))]
