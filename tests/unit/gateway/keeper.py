"""What history does with conversations, in a dictionary: `Mesh(on_query=Keeper())`.

Like history it forgets again what it forgot before, with the same answer.
"""

from dataclasses import dataclass, field
from typing import Any

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
    Query,
    Rejected,
    UpdateConversation,
)


@dataclass
class Kept:
    """A conversation."""

    tenant: str
    created_ms: int
    metadata: dict[str, str]
    items: dict[str, Item]
    erased: set[str] = field(default_factory=set)


@dataclass
class Keeper:
    """Answers at once. `silent`: so many questions are heeded and not answered. `locked`: a response runs in all."""

    kept: dict[str, Kept] = field(default_factory=dict)
    erased: dict[str, str] = field(default_factory=dict)
    silent: int = 0
    locked: bool = False

    def __call__(self, query: Query) -> Any:
        assert isinstance(query, ConversationQuery)
        answer = self._create(query) if isinstance(query, CreateConversation) else self._heed(query)
        if self.silent:
            self.silent -= 1
            return None
        return answer

    def _create(self, query: CreateConversation) -> Any:
        items = {item.id: item for item in query.items}
        self.kept.setdefault(query.conversation_id, Kept(query.tenant, query.created_ms, query.metadata, items))
        return self._found(query)

    def _heed(self, query: ConversationQuery) -> Any:
        if isinstance(query, EraseConversation) and self.erased.get(query.conversation_id) == query.tenant:
            return ConversationErased(gateway="gateway-1", correlation_id=query.correlation_id)
        kept = self.kept.get(query.conversation_id)
        if kept is None or kept.tenant != query.tenant:
            return _rejected(query, 404, "conversation_not_found")
        match query:
            case GetConversation():
                return self._found(query)
            case UpdateConversation():
                kept.metadata = query.metadata
                return self._found(query)
            case EraseConversation():
                self.erased[query.conversation_id] = self.kept.pop(query.conversation_id).tenant
                return ConversationErased(gateway="gateway-1", correlation_id=query.correlation_id)
            case AddItems() if self.locked:
                return _rejected(query, 400, "conversation_locked", "conversation")
            case AddItems():
                kept.items |= {item.id: item for item in query.items}
                return _items(query, query.items)
            case ListItems():
                return self._page(query, kept)
            case EraseItem() if query.item_id in kept.erased:
                return self._found(query)
            case GetItem() | EraseItem() if query.item_id not in kept.items:
                return _rejected(query, 404, "item_not_found")
            case GetItem():
                return _items(query, [kept.items[query.item_id]])
            case EraseItem():
                del kept.items[query.item_id]
                kept.erased.add(query.item_id)
                return self._found(query)
        raise AssertionError(query)

    def _page(self, query: ListItems, kept: Kept) -> Any:
        ordered = list(kept.items.values())[:: 1 if query.order == "asc" else -1]
        names = [item.id for item in ordered]
        if query.after is not None and query.after not in names:
            return _rejected(query, 404, "item_not_found")
        start = 0 if query.after is None else names.index(query.after) + 1
        page = ordered[start : start + query.limit]
        return _items(query, page, has_more=start + len(page) < len(ordered))

    def _found(self, query: ConversationQuery) -> ConversationFound:
        kept = self.kept[query.conversation_id]
        return ConversationFound(
            gateway="gateway-1",
            correlation_id=query.correlation_id,
            conversation_id=query.conversation_id,
            created_ms=kept.created_ms,
            metadata=kept.metadata,
        )


def _items(query: Query, items: list[Item], *, has_more: bool = False) -> ItemsFound:
    return ItemsFound(gateway="gateway-1", correlation_id=query.correlation_id, items=items, has_more=has_more)


def _rejected(query: Query, status: int, code: str, param: str | None = None) -> Rejected:
    return Rejected(
        gateway="gateway-1", correlation_id=query.correlation_id, status=status, code=code, message=code, param=param
    )
