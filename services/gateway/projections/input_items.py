"""The items of a request's own input: a pure function of its first public record.

They are what the request itself brought, in its order: neither its `instructions` nor the turns before it
(`previous_response_id`), which are items of their own responses. What `truncation: auto` left out is not there.
"""

from typing import Any

from services.gateway.projections.response_object import message_item, text_part
from shared.records import Accepted, Message
from shared.turns import input_item_id


def input_items(accepted: Accepted) -> list[dict[str, Any]]:
    """The items, oldest first, each with an id of its own: the client's, else one that follows from its place."""
    return [_item(message, input_item_id(accepted, place)) for place, message in enumerate(accepted.spec.input)]


def _item(message: Message, item_id: str) -> dict[str, Any]:
    if message.role == "assistant":
        return message_item(item_id, "completed", [text_part(text) for text in message.parts])
    content = [{"type": "input_text", "text": text} for text in message.parts]
    return {"id": item_id, "type": "message", "status": "completed", "role": message.role, "content": content}
