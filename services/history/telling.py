"""What others are told of changes in the store: on `conversations.events`, and through the journal."""

from collections.abc import Iterable, Mapping
from typing import Literal

from services.history.stores.port import Appended, Recorded
from shared.control import Outgoing
from shared.records import ConversationEvent, ConversationUpdated, Delete
from shared.topics import CONVERSATIONS, JOURNAL


def event(record: ConversationEvent) -> Outgoing:
    """A change of a conversation, for everybody who reads along."""
    return Outgoing(CONVERSATIONS, record)


def items_changed(
    change: Literal["items_added", "item_deleted"],
    tenant: str,
    conversation_id: str,
    operation: str,
    item_ids: Iterable[str],
) -> Outgoing:
    """Items came in or went, by the doing of `operation`."""
    updated = ConversationUpdated(
        conversation_id=conversation_id, tenant=tenant, change=change, operation=operation, item_ids=list(item_ids)
    )
    return event(updated)


def response_deleted(tenant: str, response_id: str) -> Outgoing:
    """Asks its owner to say in public that the response is deleted, which gateways and replays go by."""
    return Outgoing(JOURNAL, Delete(response_id=response_id, tenant=tenant))


def of_responses(recorded: Recorded, tenants: Mapping[str, str]) -> list[tuple[str, Outgoing]]:
    """What others are to know of responses that were recorded, each with the response's id.

    `tenants`: response id → its tenant, for all that may have been forgotten.
    """
    return [
        *((each.response_id, _by_response("items_added", each)) for each in recorded.appended),
        *((each.response_id, _by_response("item_deleted", each)) for each in recorded.withdrawn),
        *((each, response_deleted(tenants[each], each)) for each in recorded.forgotten),
    ]


def _by_response(change: Literal["items_added", "item_deleted"], what: Appended) -> Outgoing:
    return items_changed(change, what.tenant, what.conversation_id, what.response_id, what.item_ids)
