"""Conversations and their items in the file.

Functions of a connection inside a transaction; times are unix milliseconds. Ids of another tenant and of deleted
conversations find nothing.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from services.history.stores.port import Addition, Appended, Conversation, Holder, ItemPage, NotThere
from shared.records import Item

_encode = msgspec.json.Encoder().encode
_item = msgspec.json.Decoder(Item).decode
_metadata = msgspec.json.Decoder(dict[str, str]).decode

_CREATE = """
    INSERT INTO conversations (id, tenant, created_ms, metadata) VALUES (:id, :tenant, :created_ms, :metadata)
    ON CONFLICT (id) DO NOTHING
"""
_CONVERSATION = """
    SELECT id, tenant, created_ms, metadata, holder, holder_deadline_ms FROM conversations
    WHERE id = :id AND tenant = :tenant AND NOT deleted
"""
_STATE = "SELECT deleted, holder FROM conversations WHERE id = :id AND tenant = :tenant"
_SET_METADATA = """
    UPDATE conversations SET metadata = :metadata WHERE id = :id AND tenant = :tenant AND NOT deleted
"""
_LOCK = """
    UPDATE conversations SET holder = :holder, holder_deadline_ms = :deadline_ms
    WHERE id = :id AND tenant = :tenant AND NOT deleted AND holder IS NULL
"""
_RELEASE = """
    UPDATE conversations SET holder = NULL, holder_deadline_ms = NULL
    WHERE id = :id AND tenant = :tenant AND holder = :holder
"""
_RELEASE_ALL = """
    UPDATE conversations SET holder = NULL, holder_deadline_ms = NULL WHERE holder = :holder AND tenant = :tenant
"""
_DELETE = """
    UPDATE conversations
    SET deleted = 1, metadata = x'', holder = NULL, holder_deadline_ms = NULL, expires_at = :expires_at
    WHERE id = :id
"""
_APPEND = """
    INSERT INTO items (conversation, id, response, item) SELECT :conversation, :id, :response, :item
    WHERE NOT EXISTS (SELECT 1 FROM erased_items WHERE conversation = :conversation AND id = :id)
    ON CONFLICT (conversation, id) DO NOTHING
"""
_HAD = """
    SELECT 1 FROM items WHERE conversation = :conversation AND id = :id
    UNION ALL SELECT 1 FROM erased_items WHERE conversation = :conversation AND id = :id
"""
_BROUGHT = """
    SELECT id FROM items WHERE response = :response AND conversation = :conversation
    AND EXISTS (SELECT 1 FROM conversations WHERE id = :conversation AND tenant = :tenant) ORDER BY place
"""
_PLACE = "SELECT place FROM items WHERE conversation = :conversation AND id = :id"
PAGE = {
    "asc": "SELECT item FROM items WHERE conversation = :conversation AND place > :after ORDER BY place",
    "desc": "SELECT item FROM items WHERE conversation = :conversation AND place < :after ORDER BY place DESC",
}
_BEFORE_ALL = {"asc": -1, "desc": (1 << 63) - 1}
_ITEM = "SELECT item FROM items WHERE conversation = :conversation AND id = :id"
_OF_RESPONSE = """
    FROM items WHERE response = :response
    AND EXISTS (SELECT 1 FROM conversations WHERE id = items.conversation AND tenant = :tenant)
"""
_TOMBSTONE = "erased_items (conversation, id, response, withdrawn, expires_at)"
_WITHDRAW = (
    f"INSERT INTO {_TOMBSTONE} SELECT conversation, id, response, 1, :expires_at {_OF_RESPONSE} ORDER BY place",
    f"DELETE {_OF_RESPONSE}",
)
_WITHDRAWN = """
    SELECT conversation, id FROM erased_items WHERE response = :response AND withdrawn
    AND EXISTS (SELECT 1 FROM conversations WHERE id = erased_items.conversation AND tenant = :tenant) ORDER BY rowid
"""
_ERASE_ITEM = (
    f"INSERT INTO {_TOMBSTONE} SELECT conversation, id, response, 0, :expires_at FROM items"
    " WHERE conversation = :conversation AND id = :id",
    "DELETE FROM items WHERE conversation = :conversation AND id = :id",
)
_ERASED_ITEM = "SELECT response FROM erased_items WHERE conversation = :conversation AND id = :id"
_EMPTY = (
    "DELETE FROM items WHERE conversation = :conversation",
    "DELETE FROM erased_items WHERE conversation = :conversation",
)


def create(connection: sqlite3.Connection, conversation: Conversation, items: Sequence[Item]) -> Conversation | None:
    """See `Conversations.create_conversation`."""
    values = {
        "id": conversation.id,
        "tenant": conversation.tenant,
        "created_ms": conversation.created_ms,
        "metadata": _encode(conversation.metadata),
    }
    if connection.execute(_CREATE, values).rowcount == 1:
        _append(connection, conversation.id, items)
    return get(connection, conversation.tenant, conversation.id)


def get(connection: sqlite3.Connection, tenant: str, conversation_id: str) -> Conversation | None:
    """See `Conversations.conversation`."""
    row = connection.execute(_CONVERSATION, {"id": conversation_id, "tenant": tenant}).fetchone()
    if row is None:
        return None
    identity, owner, created_ms, metadata, holder, deadline_ms = row
    held_by = None if holder is None else Holder(holder, deadline_ms)
    return Conversation(identity, owner, created_ms, _metadata(metadata), held_by)


def set_metadata(
    connection: sqlite3.Connection, tenant: str, conversation_id: str, metadata: Mapping[str, str]
) -> Conversation | None:
    """See `Conversations.set_metadata`."""
    connection.execute(_SET_METADATA, {"id": conversation_id, "tenant": tenant, "metadata": _encode(metadata)})
    return get(connection, tenant, conversation_id)


def is_deleted(connection: sqlite3.Connection, tenant: str, conversation_id: str | None) -> bool:
    """Whether there was such a conversation of this tenant."""
    if conversation_id is None:
        return False
    row = connection.execute(_STATE, {"id": conversation_id, "tenant": tenant}).fetchone()
    return row is not None and bool(row[0])


def lock(connection: sqlite3.Connection, tenant: str, conversation_id: str, holder: Holder) -> Conversation | None:
    """See `Conversations.lock`."""
    values = {
        "id": conversation_id,
        "tenant": tenant,
        "holder": holder.response_id,
        "deadline_ms": holder.deadline_ms,
    }
    connection.execute(_LOCK, values)
    return get(connection, tenant, conversation_id)


def release(connection: sqlite3.Connection, tenant: str, conversation_id: str, response_id: str) -> None:
    """See `Conversations.release`."""
    connection.execute(_RELEASE, {"id": conversation_id, "tenant": tenant, "holder": response_id})


def release_all(connection: sqlite3.Connection, tenant: str, response_id: str) -> None:
    """Give back whatever the response still holds."""
    connection.execute(_RELEASE_ALL, {"holder": response_id, "tenant": tenant})


def add_items(connection: sqlite3.Connection, tenant: str, conversation_id: str, items: Sequence[Item]) -> Addition:
    """See `Conversations.add_items`."""
    found = get(connection, tenant, conversation_id)
    if found is None:
        return Addition.NOT_FOUND
    if found.holder is not None and not all(_had(connection, conversation_id, item.id) for item in items):
        return Addition.LOCKED
    _append(connection, conversation_id, items)
    return Addition.DONE


def append(connection: sqlite3.Connection, tenant: str, conversation_id: str, items: Sequence[Item]) -> None:
    """Add what a response brings, if the conversation is there."""
    if get(connection, tenant, conversation_id) is not None:
        _append(connection, conversation_id, items)


def brought(connection: sqlite3.Connection, tenant: str, conversation_id: str, response_id: str) -> tuple[str, ...]:
    """The ids of what stands in the conversation of this response, in order."""
    values = {"tenant": tenant, "conversation": conversation_id, "response": response_id}
    rows = connection.execute(_BROUGHT, values)
    return tuple(item_id for (item_id,) in rows)


def page(
    connection: sqlite3.Connection,
    tenant: str,
    conversation_id: str,
    limit: int,
    order: Literal["asc", "desc"],
    after: str | None,
    max_bytes: int | None,
) -> ItemPage | NotThere:
    """See `Conversations.items`."""
    if get(connection, tenant, conversation_id) is None:
        return NotThere.CONVERSATION
    place = _BEFORE_ALL[order] if after is None else _place(connection, conversation_id, after)
    if place is None:
        return NotThere.ITEM
    rows = connection.execute(PAGE[order], {"conversation": conversation_id, "after": place})
    return _page((blob for (blob,) in rows), limit, max_bytes)


def item(connection: sqlite3.Connection, tenant: str, conversation_id: str, item_id: str) -> Item | NotThere:
    """See `Conversations.item`."""
    if get(connection, tenant, conversation_id) is None:
        return NotThere.CONVERSATION
    row = connection.execute(_ITEM, {"conversation": conversation_id, "id": item_id}).fetchone()
    return NotThere.ITEM if row is None else _item(row[0])


def erase_item(
    connection: sqlite3.Connection, conversation_id: str, item_id: str, until_ms: int
) -> str | NotThere | None:
    """Leave a tombstone of the item until then; the id of the response that brought it, if one did."""
    values = {"conversation": conversation_id, "id": item_id, "expires_at": until_ms}
    for statement in _ERASE_ITEM:
        connection.execute(statement, values)
    row = connection.execute(_ERASED_ITEM, values).fetchone()
    if row is None:
        return NotThere.ITEM
    response_id: str | None = row[0]
    return response_id


def withdraw(connection: sqlite3.Connection, tenant: str, response_id: str, until_ms: int) -> None:
    """Leave tombstones of all that the response brought."""
    values = {"response": response_id, "tenant": tenant, "expires_at": until_ms}
    for statement in _WITHDRAW:
        connection.execute(statement, values)


def withdrawn(connection: sqlite3.Connection, tenant: str, response_id: str) -> Appended | None:
    """What `withdraw` took from a conversation that is still there."""
    rows = connection.execute(_WITHDRAWN, {"response": response_id, "tenant": tenant}).fetchall()
    return Appended(rows[0][0], tenant, response_id, tuple(item_id for _, item_id in rows)) if rows else None


def erase(connection: sqlite3.Connection, tenant: str, conversation_id: str, until_ms: int) -> bool:
    """Leave a tombstone of the conversation until then, and nothing of its items. False if there never was one."""
    row = connection.execute(_STATE, {"id": conversation_id, "tenant": tenant}).fetchone()
    if row is None:
        return False
    if not row[0]:
        connection.execute(_DELETE, {"id": conversation_id, "expires_at": until_ms})
        for statement in _EMPTY:
            connection.execute(statement, {"conversation": conversation_id})
    return True


def _append(connection: sqlite3.Connection, conversation_id: str, items: Sequence[Item]) -> None:
    rows = [
        {"conversation": conversation_id, "id": item.id, "response": item.response_id, "item": _encode(item)}
        for item in items
    ]
    connection.executemany(_APPEND, rows)


def _had(connection: sqlite3.Connection, conversation_id: str, item_id: str) -> bool:
    return connection.execute(_HAD, {"conversation": conversation_id, "id": item_id}).fetchone() is not None


def _place(connection: sqlite3.Connection, conversation_id: str, item_id: str) -> int | None:
    row = connection.execute(_PLACE, {"conversation": conversation_id, "id": item_id}).fetchone()
    return None if row is None else int(row[0])


def _page(blobs: Iterator[bytes], limit: int, max_bytes: int | None) -> ItemPage:
    """As many as fit, at least one; reads one more than it takes, and no further."""
    taken: list[Item] = []
    size = 0
    for blob in blobs:
        size += len(blob)
        if len(taken) == limit or (taken and max_bytes is not None and size > max_bytes):
            return ItemPage(taken, has_more=True)
        taken.append(_item(blob))
    return ItemPage(taken, has_more=False)
