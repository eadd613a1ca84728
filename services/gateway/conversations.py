"""Conversations of a tenant, which history keeps: questions over the log, asked at most once under a client's key.

Names are minted here and travel with the question, so that a question that is delivered twice, or asked again because
no answer came, makes one conversation and adds an item once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from services.gateway.auth import Caller
from services.gateway.errors import ApiError, conversation_not_found, cursor_not_found, item_not_found
from services.gateway.history import History
from services.gateway.ledger import Ledger, Repeatable
from services.gateway.once import admitted
from services.gateway.replies import AnyReply, expected
from shared.ids import is_id, new_id, now_ms
from shared.records import (
    AddItems,
    ConversationErased,
    ConversationFound,
    ConversationQuery,
    CreateConversation,
    EraseConversation,
    EraseItem,
    GetConversation,
    GetItem,
    Item,
    ItemsFound,
    ListItems,
    Rejected,
    UpdateConversation,
)

A = TypeVar("A", bound=AnyReply)
Q = TypeVar("Q", bound=ConversationQuery)


@dataclass(frozen=True)
class Conversations:
    """Every method raises ApiError: 404 for what is unknown, deleted or another tenant's, 503 while history is silent;
    those that take a `repeatable` also 429, and 422 for a key that stands for another request."""

    history: History
    ledger: Ledger

    async def create(
        self, caller: Caller, metadata: Mapping[str, str], items: Sequence[Item], repeatable: Repeatable | None
    ) -> ConversationFound:
        """Begin a conversation with `items`."""
        names = (new_id("conv"), *(item.id for item in items))
        attempt = await admitted(self.ledger, caller, names, repeatable)
        conversation_id, *item_ids = attempt.names
        query = self._query(
            CreateConversation,
            caller,
            conversation_id,
            created_ms=now_ms(),
            metadata=dict(metadata),
            items=_renamed(items, item_ids),
        )
        return await attempt.make(self._asked(ConversationFound, query))

    async def get(self, caller: Caller, conversation_id: str) -> ConversationFound:
        """The conversation as it stands."""
        return await self._asked(ConversationFound, self._query(GetConversation, caller, conversation_id))

    async def update(
        self, caller: Caller, conversation_id: str, metadata: Mapping[str, str], repeatable: Repeatable | None
    ) -> ConversationFound:
        """Replace its metadata; a repetition of what was done does not undo what was done since."""
        query = self._query(UpdateConversation, caller, conversation_id, metadata=dict(metadata))
        attempt = await admitted(self.ledger, caller, (new_id("update"),), repeatable)
        if attempt.done:
            return await self.get(caller, conversation_id)
        return await attempt.make(self._asked(ConversationFound, query))

    async def erase(self, caller: Caller, conversation_id: str) -> None:
        """Forget it, its items and the responses that ran in it.

        Looked for first: history answers the same however often it is asked to forget, and a client is to be told that
        it has been there before.
        """
        await self.get(caller, conversation_id)
        await self._asked(ConversationErased, self._query(EraseConversation, caller, conversation_id))

    async def add_items(
        self, caller: Caller, conversation_id: str, items: Sequence[Item], repeatable: Repeatable | None
    ) -> list[Item]:
        """Append items, all or none. Raises ApiError 400 while a response runs in the conversation."""
        query = self._query(AddItems, caller, conversation_id, items=list(items))
        attempt = await admitted(self.ledger, caller, tuple(item.id for item in items), repeatable)
        named = msgspec.structs.replace(query, items=_renamed(items, attempt.names))
        return (await attempt.make(self._asked(ItemsFound, named))).items

    async def items(
        self, caller: Caller, conversation_id: str, *, limit: int, order: Literal["asc", "desc"], after: str | None
    ) -> ItemsFound:
        """Up to `limit` items behind the item `after`. Raises ApiError 400 if there is no such item."""
        query = self._query(ListItems, caller, conversation_id, limit=limit, order=order, after=after)
        if after is None or is_id(_ITEM, after):
            return await self._asked(ItemsFound, query)
        await self.get(caller, conversation_id)  # whose conversation it is not learns nothing about cursors
        raise cursor_not_found(after)

    async def item(self, caller: Caller, conversation_id: str, item_id: str) -> Item:
        """One item."""
        query = self._query(GetItem, caller, conversation_id, item_id=_parsed(item_id))
        (found,) = (await self._asked(ItemsFound, query)).items
        return found

    async def erase_item(self, caller: Caller, conversation_id: str, item_id: str) -> ConversationFound:
        """Forget one item, and the response that brought it; looked for first, as in `erase`."""
        await self.item(caller, conversation_id, item_id)
        query = self._query(EraseItem, caller, conversation_id, item_id=_parsed(item_id))
        return await self._asked(ConversationFound, query)

    # -- asking --------------------------------------------------------------------------------------------------

    def _query(self, kind: type[Q], caller: Caller, conversation_id: str, **what: Any) -> Q:
        """Raises ApiError 404 for what cannot be a conversation's id."""
        if not is_id("conv", conversation_id):
            raise conversation_not_found(conversation_id)
        address = self.history.replies.address
        asked = {"conversation_id": conversation_id, **what}
        return kind(correlation_id=new_id("query"), reply_to=address, tenant=caller.tenant, **asked)

    async def _asked(self, kind: type[A], query: ConversationQuery) -> A:
        answer = await self.history.ask(query)
        if isinstance(answer, Rejected) and answer.status == 404:
            raise _not_found(query, answer)
        return expected(kind, answer)


_ITEM = "msg"


def _parsed(item_id: str) -> str:
    if not is_id(_ITEM, item_id):
        raise item_not_found(item_id)
    return item_id


def _renamed(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
    return [msgspec.structs.replace(item, id=name) for item, name in zip(items, names, strict=True)]


def _not_found(query: ConversationQuery, answer: Rejected) -> ApiError:
    """Of what was named, what is not there; to the byte what is said of an id that cannot be one."""
    match query:
        case GetItem() | EraseItem() if answer.code == "item_not_found":
            return item_not_found(query.item_id)
        case ListItems() if answer.code == "item_not_found":
            return cursor_not_found(query.after or "")
        case _:
            return conversation_not_found(query.conversation_id)
