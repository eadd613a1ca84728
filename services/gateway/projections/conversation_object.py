"""The Conversation object."""

from typing import Any

from shared.records import ConversationFound


def conversation_object(found: ConversationFound) -> dict[str, Any]:
    """What a client is shown of a conversation; times are whole seconds."""
    return {
        "id": found.conversation_id,
        "object": "conversation",
        "created_at": found.created_ms // 1000,
        "metadata": found.metadata,
    }
