"""The store port by definition: what it promises, as plainly as it can be said, and nothing on disk."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from services.history.stores.port import (
    Addition,
    Appended,
    Conversation,
    Holder,
    ItemPage,
    NotThere,
    Recordable,
    Recorded,
    Retention,
    StoredResponse,
    item_bytes,
)
from shared.folds import EventFold
from shared.ids import now_ms
from shared.records import Accepted, AnyTerminal, Deleted, Item, Screening
from shared.turns import turn_items


@dataclass
class _Response:
    """A response: its fold, and whether what was said is erased. `expires_at` None: never."""

    expires_at: int | None
    fold: EventFold = field(default_factory=EventFold)
    tenant: str | None = None
    conversation: str | None = None
    erased: bool = False

    @property
    def over(self) -> bool:
        return self.fold.terminal is not None or self.fold.deleted

    @property
    def readable(self) -> bool:
        accepted = self.fold.accepted
        kept = accepted is not None and accepted.spec.store and not self.erased
        return kept and self.fold.terminal is not None and not self.fold.deleted


@dataclass(frozen=True)
class _Erased:
    """An item's tombstone. `withdrawn`: it went with its response."""

    until_ms: int
    withdrawn: bool


@dataclass
class _Talk:
    """A conversation. `brought`: every id that it ever had, with the response that brought it."""

    conversation: Conversation
    items: list[Item] = field(default_factory=list)
    brought: dict[str, str | None] = field(default_factory=dict)
    erased: dict[str, _Erased] = field(default_factory=dict)
    deleted_until: int | None = None

    def add(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.id not in self.brought:
                self.brought[item.id] = item.response_id
                self.items.append(item)

    def erase(self, item_ids: Collection[str], tombstone: _Erased) -> None:
        self.items = [item for item in self.items if item.id not in item_ids]
        self.erased |= dict.fromkeys(item_ids, tombstone)

    def brought_by(self, response_id: str) -> Appended:
        ids = tuple(item_id for item_id, bringer in self.brought.items() if bringer == response_id)
        return Appended(self.conversation.id, self.conversation.tenant, response_id, ids)

    def withdrawn_with(self, response_id: str) -> Appended:
        brought = self.brought_by(response_id)
        ids = tuple(i for i in brought.item_ids if i in self.erased and self.erased[i].withdrawn)
        return replace(brought, item_ids=ids)

    def delete(self, until_ms: int) -> None:
        gone = replace(self.conversation, metadata={}, holder=None)
        self.conversation, self.items, self.brought, self.erased = gone, [], {}, {}
        self.deleted_until = until_ms

    def release(self, response_id: str) -> None:
        holder = self.conversation.holder
        if holder is not None and holder.response_id == response_id:
            self.conversation = replace(self.conversation, holder=None)


class MemoryStore:
    """One `EventFold` per response, one list per conversation. `failures` are raised first, one per call."""

    name = "memory"
    system = "memory"

    def __init__(self, retention: Retention | None = None, clock_ms: Callable[[], int] = now_ms) -> None:
        self.failures: list[Exception] = []
        self._retention = retention or Retention()
        self._clock_ms = clock_ms
        self._responses: dict[str, _Response] = {}
        self._talks: dict[str, _Talk] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    # Responses

    async def record(self, records: Sequence[Recordable]) -> Recorded:
        self._may_fail()
        ended: set[str] = set()
        appended: dict[str, Appended] = {}
        withdrawn: dict[str, Appended] = {}
        forgotten: set[str] = set()
        for record in records:
            if isinstance(record, Deleted):
                self._deleted(record)
                self._tell_withdrawn(record, withdrawn)
            elif isinstance(record, Accepted | Screening):
                self._begun(record)
            else:
                if self._ended(record):
                    ended.add(record.response_id)
                self._settle(record, appended, forgotten)
        return Recorded(frozenset(ended), tuple(appended.values()), tuple(withdrawn.values()), frozenset(forgotten))

    def _begun(self, record: Accepted | Screening) -> None:
        if isinstance(record, Accepted) and not record.spec.store and record.spec.conversation is None:
            return
        response = self._responses.setdefault(record.response_id, _Response(self._tombstone_until()))
        if response.fold.apply(record) is not None and isinstance(record, Accepted):
            response.tenant, response.conversation = record.tenant, record.spec.conversation
            response.expires_at = self._retention.response_until(record.deadline_ms)
            response.erased = self._is_deleted(record.tenant, record.spec.conversation)

    def _ended(self, record: AnyTerminal) -> bool:
        """True if this record ended a response that is kept."""
        response = self._responses.get(record.response_id)
        accepted = response.fold.accepted if response is not None else None
        if response is None or accepted is None or response.fold.apply(record) is None:
            return False
        response.expires_at = self._retention.response_until(record.finished_ms)
        talk = self._talk(accepted.tenant, accepted.spec.conversation)
        if talk is not None:
            talk.add(turn_items(accepted, record))
        return response.readable

    def _settle(self, record: AnyTerminal, appended: dict[str, Appended], forgotten: set[str]) -> None:
        """Give the lock back, and tell what came of the end; of one that came before too."""
        response_id = record.response_id
        response = self._responses.get(response_id)
        if response is None or not response.over or response.tenant is None:
            return
        self._release_all(response.tenant, response_id)
        if response.fold.deleted:
            return
        if self._is_deleted(response.tenant, response.conversation):
            forgotten.add(response_id)
        elif (talk := self._talk(response.tenant, response.conversation)) is not None:
            brought = talk.brought_by(response_id)
            if brought.item_ids:
                appended[response_id] = brought

    def _deleted(self, record: Deleted) -> None:
        if not self._delete_response(record.response_id, record.tenant):
            return
        for talk in self._talks_of(record.tenant):
            mine = [item.id for item in talk.items if item.response_id == record.response_id]
            talk.erase(mine, _Erased(self._tombstone_until(), withdrawn=True))

    def _tell_withdrawn(self, record: Deleted, withdrawn: dict[str, Appended]) -> None:
        for talk in self._talks_of(record.tenant):
            went = talk.withdrawn_with(record.response_id)
            if went.item_ids:
                withdrawn[record.response_id] = went

    def _delete_response(self, response_id: str, tenant: str) -> bool:
        """False if it is deleted, or somebody else's."""
        response = self._responses.setdefault(response_id, _Response(self._tombstone_until()))
        if response.fold.apply(Deleted(response_id=response_id, tenant=tenant)) is None:
            return False
        response.tenant, response.expires_at = tenant, self._tombstone_until()
        return True

    def _release_all(self, tenant: str, response_id: str) -> None:
        for talk in self._talks_of(tenant):
            talk.release(response_id)

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        self._may_fail()
        return self._stored(tenant, response_id)

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        self._may_fail()
        turns: list[StoredResponse] = []
        wanted: str | None = response_id
        while wanted is not None and len(turns) < limit:
            found = self._stored(tenant, wanted)
            if found is None:
                break
            turns.insert(0, found)
            wanted = found.previous_response_id
        return turns

    def _stored(self, tenant: str, response_id: str) -> StoredResponse | None:
        response = self._responses.get(response_id)
        if response is None or not response.readable or response.tenant != tenant:
            return None
        assert response.fold.accepted is not None and response.fold.terminal is not None
        return StoredResponse(response.fold.accepted, response.fold.terminal)

    # Conversations

    async def create_conversation(self, conversation: Conversation, items: Sequence[Item]) -> Conversation | None:
        self._may_fail()
        if conversation.id not in self._talks:
            talk = self._talks[conversation.id] = _Talk(replace(conversation, holder=None))
            talk.add(items)
        return self._conversation(conversation.tenant, conversation.id)

    async def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        self._may_fail()
        return self._conversation(tenant, conversation_id)

    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is not None:
            talk.conversation = replace(talk.conversation, metadata=dict(metadata))
        return self._conversation(tenant, conversation_id)

    async def lock(self, tenant: str, conversation_id: str, holder: Holder) -> Conversation | None:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is not None and talk.conversation.holder is None:
            talk.conversation = replace(talk.conversation, holder=holder)
        return self._conversation(tenant, conversation_id)

    async def release(self, tenant: str, conversation_id: str, response_id: str) -> None:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is not None:
            talk.release(response_id)

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> Addition:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is None:
            return Addition.NOT_FOUND
        if talk.conversation.holder is not None and any(item.id not in talk.brought for item in items):
            return Addition.LOCKED
        talk.add(items)
        return Addition.DONE

    async def items(
        self,
        tenant: str,
        conversation_id: str,
        *,
        limit: int,
        order: Literal["asc", "desc"],
        after: str | None = None,
        max_bytes: int | None = None,
    ) -> ItemPage | NotThere:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        ordered = talk.items if order == "asc" else talk.items[::-1]
        if after is not None:
            places = [place for place, item in enumerate(ordered) if item.id == after]
            if not places:
                return NotThere.ITEM
            ordered = ordered[places[0] + 1 :]
        page = _fitting(ordered[:limit], max_bytes)
        return ItemPage(page, has_more=len(page) < len(ordered))

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item | NotThere:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        return next((item for item in talk.items if item.id == item_id), NotThere.ITEM)

    async def erase_item(self, tenant: str, conversation_id: str, item_id: str) -> str | NotThere | None:
        self._may_fail()
        talk = self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        if item_id not in talk.brought:
            return NotThere.ITEM
        response_id = talk.brought[item_id]
        if item_id not in talk.erased:
            talk.erase([item_id], _Erased(self._tombstone_until(), withdrawn=False))
            if response_id is not None:
                self._delete_response(response_id, tenant)
        return response_id

    async def erase_conversation(self, tenant: str, conversation_id: str) -> list[str] | None:
        self._may_fail()
        talk = self._talks.get(conversation_id)
        if talk is None or talk.conversation.tenant != tenant:
            return None
        ran = {i: r for i, r in self._responses.items() if r.conversation == conversation_id and r.tenant == tenant}
        if talk.deleted_until is None:
            talk.delete(self._tombstone_until())
            for response in ran.values():
                response.erased = True
        return sorted(response_id for response_id, response in ran.items() if response.over)

    def _conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        talk = self._talk(tenant, conversation_id)
        return talk and talk.conversation

    def _talk(self, tenant: str, conversation_id: str | None) -> _Talk | None:
        talk = self._talks.get(conversation_id or "")
        return talk if talk in self._talks_of(tenant) else None

    def _talks_of(self, tenant: str) -> list[_Talk]:
        return [t for t in self._talks.values() if t.conversation.tenant == tenant and t.deleted_until is None]

    def _is_deleted(self, tenant: str, conversation_id: str | None) -> bool:
        talk = self._talks.get(conversation_id or "")
        return talk is not None and talk.conversation.tenant == tenant and talk.deleted_until is not None

    # Time

    async def forget_expired(self, now_ms: int, limit: int) -> int:
        self._may_fail()
        count = 0
        for response_id, response in list(self._responses.items()):
            if _passed(response.expires_at, now_ms) and count < limit:
                del self._responses[response_id]
                count += 1
        for conversation_id, talk in list(self._talks.items()):
            if _passed(talk.deleted_until, now_ms) and count < limit:
                del self._talks[conversation_id]
                count += 1
            for item_id, tombstone in list(talk.erased.items()):
                if _passed(tombstone.until_ms, now_ms) and count < limit:
                    del talk.erased[item_id], talk.brought[item_id]
                    count += 1
        return count

    def _tombstone_until(self) -> int:
        return self._clock_ms() + self._retention.tombstone_ms

    def _may_fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


def _fitting(items: Sequence[Item], max_bytes: int | None) -> list[Item]:
    """As many from the front as fit, but at least one."""
    if max_bytes is None:
        return list(items)
    fitting: list[Item] = []
    for item in items:
        if fitting and sum(map(item_bytes, fitting)) + item_bytes(item) > max_bytes:
            break
        fitting.append(item)
    return fitting


def _passed(time_ms: int | None, now_ms: int) -> bool:
    return time_ms is not None and time_ms <= now_ms
