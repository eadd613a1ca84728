"""The items of a request's own input: a pure function of its first public record.

They are what the request itself brought, in its order: neither its `instructions` nor the turns before it
(`previous_response_id`), which are items of their own responses. What `truncation: auto` left out is not there.
"""

from hashlib import blake2b
from typing import Any

from services.gateway.projections.response_object import message_item, text_part
from shared.records import Accepted, Message


def input_items(accepted: Accepted) -> list[dict[str, Any]]:
    """The items, oldest first, each with an id of its own: the client's, else one that follows from its place."""
    return [_item(message, _id(accepted, place)) for place, message in enumerate(accepted.spec.input)]


def _id(accepted: Accepted, place: int) -> str:
    """Equal at every replica; a client cannot have made it up, as it did not know the response's id."""
    given = accepted.spec.input[place].id
    return given or "msg_" + blake2b(f"{accepted.response_id}/{place}".encode(), digest_size=16).hexdigest()


def _item(message: Message, item_id: str) -> dict[str, Any]:
    if message.role == "assistant":
        return message_item(item_id, "completed", [text_part(text) for text in message.parts])
    content = [{"type": "input_text", "text": text} for text in message.parts]
    return {"id": item_id, "type": "message", "status": "completed", "role": message.role, "content": content}
