"""The store port: what any database must do for history, and nothing of how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

import msgspec

from shared.records import TERMINALS, Accepted, AnyTerminal, Deleted, Item, Screening

Recordable = Accepted | Screening | AnyTerminal | Deleted
RECORDABLE = (Accepted, Screening, Deleted, *TERMINALS)


_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is not deleted is kept, and how long it is remembered that something was deleted.

    `response_ms`: after a response's end, None is for ever. `tombstone_ms`: longer than records stay in the topics
    (`shared.topics`, 7 days at most), so that none of them can come after it.
    """

    response_ms: int | None = 30 * _DAY_MS
    tombstone_ms: int = 30 * _DAY_MS

    @classmethod
    def of_days(cls, days: int) -> "Retention":
        """Responses for so many days; 0 is for ever."""
        return cls(response_ms=days * _DAY_MS or None)

    def response_until(self, end_ms: int) -> int | None:
        """The `expires_at` of a response that ends at `end_ms` (unix ms)."""
        return None if self.response_ms is None else end_ms + self.response_ms

    def tombstone_until(self, now_ms: int) -> int:
        """The `expires_at` of what is left of something that is deleted at `now_ms` (unix ms)."""
        return now_ms + self.tombstone_ms


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An ended response, as the two events from which every view of it is projected."""

    accepted: Accepted
    terminal: AnyTerminal

    @property
    def previous_response_id(self) -> str | None:
        return self.accepted.spec.previous_response_id


@dataclass(frozen=True, slots=True)
class Holder:
    """The response that holds a conversation's lock, and until when it runs at the longest (unix ms)."""

    response_id: str
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, items aside; `created_ms` in unix ms."""

    id: str
    tenant: str
    created_ms: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Items in the order that was asked for. `has_more`: behind the last there are others."""

    items: list[Item]
    has_more: bool


def item_bytes(item: Item) -> int:
    """How many bytes the item takes in a record: what `Conversations.items` counts."""
    return len(msgspec.json.encode(item))


@dataclass(frozen=True, slots=True)
class Appended:
    """The items that a response brought into its conversation as it ended, or that left it with the response."""

    conversation_id: str
    tenant: str
    response_id: str
    item_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch of events.

    `ended`: the ids of the responses that are kept and that this very call ended. The others tell again what an earlier
    call applied, so that who tells others of it can do so after a crash:

    * `appended`: for every terminal in the batch whose response has ended by then and is not deleted, what that brought
      into its conversation, if anything;
    * `withdrawn`: for every `deleted` in the batch, what items of its response a `deleted` took from a conversation;
    * `forgotten`: for every terminal in the batch, its response if that has ended in a conversation that is deleted, so
      that nothing of it is kept, and if no `deleted` has told that yet.
    """

    ended: frozenset[str] = frozenset()
    appended: tuple[Appended, ...] = ()
    withdrawn: tuple[Appended, ...] = ()
    forgotten: frozenset[str] = frozenset()


class NotThere(Enum):
    """What of a question does not exist for this tenant."""

    CONVERSATION = "conversation"
    ITEM = "item"


class Addition(Enum):
    """What became of items that were to be added."""

    DONE = "done"
    LOCKED = "locked"
    NOT_FOUND = "not found"


class Conversations(Protocol):
    """Keeps conversations: their items in one order, and a lock that at most one response holds.

    Whatever is asked may be asked again, by any replica at any time, after any crash in the midst of it: it comes to
    the same. A foreign conversation and a deleted one are not there. What is deleted leaves a tombstone without
    content (ids, and when it expires), so that nothing that comes late brings it back. Errors as for `Store`.
    """

    async def create_conversation(self, conversation: Conversation, items: Sequence[Item]) -> Conversation | None:
        """Begin it with `items` and no holder, unless it is there: then nothing changes.

        Returns it as it stands; None if the id is deleted or somebody else's.
        """

    async def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """As it stands."""

    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """Replace the metadata; returns it as it stands then."""

    async def lock(self, tenant: str, conversation_id: str, holder: Holder) -> Conversation | None:
        """Take the lock if nobody holds it. Who holds it now stands in the returned `holder`, as it first took it.

        A response that has ended is not told from others: who takes the lock sees to that, or records the end again.
        """

    async def release(self, tenant: str, conversation_id: str, response_id: str) -> None:
        """Give the lock back, if this response holds it."""

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> Addition:
        """Append items, all or none, in this order, behind all others; only while nobody holds the lock.

        Readers see all of them or none. Ids that the conversation has, or had, are not added a second time; if it knows
        them all, that is DONE whoever holds the lock.
        """

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
        """Up to `limit` (1 or more) items behind the item `after`, at most `max_bytes` (`item_bytes`) in all, but one.

        Costs the same wherever in the conversation the page lies, and whatever was deleted there. An item that was
        deleted is no place to go on from.
        """

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item | NotThere:
        """One item."""

    async def erase_item(self, tenant: str, conversation_id: str, item_id: str) -> str | NotThere | None:
        """Forget the item, and what else is kept of the response that brought it: its id, if one did.

        The other items of that response stay, also when its `deleted` is recorded then: that finds the response's
        tombstone, which stands even where the response itself has expired. An item that this erased before is erased
        again, with the same answer.
        """

    async def erase_conversation(self, tenant: str, conversation_id: str) -> list[str] | None:
        """Forget it, its items, and what was said in the responses that ran in it or still do.

        Returns the ids of those that have ended; asked again, the same, and what ended since. None if there never was
        such a conversation. Responses that still run are forgotten as they end (`Recorded.forgotten`).
        """

    async def forget_expired(self, now_ms: int, limit: int) -> int:
        """Forget up to `limit` responses, and tombstones, whose `expires_at` (`Retention`) has come; returns how many.

        A response expires a set time after its end (one that never ended, after its deadline); conversations and their
        items never do, and a tombstone only once nothing can come late for it any more.
        """


class Store(Conversations, Protocol):
    """Keeps ended responses until they expire, and conversations.

    All methods raise StoreUnavailableError when the same call may succeed later, StoreError when it never will.
    Offsets are Kafka's business: a caller commits its own after `record` returned.
    """

    @property
    def name(self) -> str:
        """What logs and errors call it; no secret is in it."""

    @property
    def system(self) -> str:
        """What kind of database it is, as OpenTelemetry's `db.system.name` has it."""

    async def open(self) -> None:
        """Connect, create or migrate the schema."""

    async def close(self) -> None:
        """Finish what runs, then disconnect."""

    async def record(self, records: Sequence[Recordable]) -> Recorded:
        """Apply the records in their order; durable once this returns. Where it raises, a part may be applied.

        The rules are those of `EventFold` (DESIGN 6): each kind counts once, epochs lower than the highest seen
        for the response are ignored, after the terminal only its tenant's `deleted` counts, which leaves an empty
        tombstone: whatever comes for it later is not kept. An end whose beginning is not there counts for nothing.
        The state of the fold lives in the store, so records may be applied again, from any earlier offset on and
        by several writers. Responses with `store` false are not kept once they ended; of those in a conversation the
        id stays until it expires, so that their end can be told again.

        The end of a response that names a conversation of its tenant appends `turn_items` to that (nothing if it
        failed) and releases its lock, all of it seen at once by readers. A terminal that comes again, or after the
        response was deleted, releases what its response holds by then. The first `deleted` erases those items too; it
        releases nothing: that is for the end to do, before it or after.
        """

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """The ended response of this tenant; None if there is none (or it has not ended, or was deleted)."""

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        """The ended response and its ancestors by `previous_response_id`, oldest first, `limit` of the newest.

        Stops at the first ancestor that is not stored, which the caller sees by its id in the oldest one; empty
        if the response itself is not there.
        """
