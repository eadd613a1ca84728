"""Records of `conversations.events`, the public log of what becomes of conversations.

They tell that and where something changed, never in a client's words: nobody has screened its metadata, and what was
said stands in `responses.events` and behind the API. Appended at least once: a change may be told again after a fault,
by the same CloudEvents id.
"""

from typing import Literal

from shared.records.base import Record


class ConversationEvent(Record, frozen=True, kw_only=True):
    """Written by history once the store holds the change. Times are unix milliseconds."""

    conversation_id: str
    tenant: str

    @property
    def subject(self) -> str:
        return self.conversation_id

    @property
    def uid(self) -> str:
        return f"{self.conversation_id}/{self.__struct_config__.tag}"


class ConversationCreated(ConversationEvent, frozen=True, kw_only=True, tag="conversation.created"):
    """It is there, with these items in it."""

    created_ms: int
    item_ids: list[str] = []


class ConversationUpdated(ConversationEvent, frozen=True, kw_only=True, tag="conversation.updated"):
    """`operation` names the cause: the response that brought the items, else the request that asked for it."""

    change: Literal["metadata", "items_added", "item_deleted"]
    operation: str
    item_ids: list[str] = []

    @property
    def uid(self) -> str:
        return f"{self.conversation_id}/{self.change}/{self.operation}"


class ConversationDeleted(ConversationEvent, frozen=True, kw_only=True, tag="conversation.deleted"):
    """It is gone from the store, and so are its items and the responses that ran in it."""


ConversationEvents = ConversationCreated | ConversationUpdated | ConversationDeleted
