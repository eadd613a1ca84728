"""The items of a request's own input: a pure function of its first public record.

They are what the request itself brought, in its order: neither its `instructions` nor the turns before it
(`previous_response_id`), which are items of their own responses. What `truncation: auto` left out is not there.
"""

from typing import Any

from services.gateway.projections.response_object import message_item, text_part
from shared.records import Accepted, Item
from shared.turns import input_item_id


def input_items(accepted: Accepted) -> list[dict[str, Any]]:
    """The items, oldest first, each with an id of its own: the client's, else one that follows from its place."""
    return [
        item_object(Item(id=input_item_id(accepted, place), role=message.role, parts=message.parts))
        for place, message in enumerate(accepted.spec.input)
    ]


def item_object(item: Item) -> dict[str, Any]:
    """An item of a request or a conversation, as what its role says: input, or output."""
    if item.role == "assistant":
        return message_item(item.id, item.status, [text_part(text) for text in item.parts])
    content = [{"type": "input_text", "text": text} for text in item.parts]
    return {"id": item.id, "type": "message", "status": item.status, "role": item.role, "content": content}
