"""What `mongo.py` keeps, and every decision about it: documents in, changes out, no server.

    responses       _id, state, epoch, tenant, parent, conversation, keep, accepted, terminal, ended_by, settled, ...
    conversations   _id, tenant, created_ms, metadata, holder, next, pending, deleted, version
    items           _id (conversation/item), conversation, response_id, position, data
    schema_migrations   _id (version), applied_ms

MongoDB changes one document at a time, so every change that must be seen at once is one change of one document.

A response's fold (`Store.record`) is a few conditional updates of its own document: the same rules as in SQL. A
conversation's document is the commit point of all that happens to it. It is only ever replaced as it was read
(`version`). What is appended stands in its `pending` first, together with the lock's release and the new `next`: from
then on it is there. Whoever finds a `pending`, readers included, first puts its items into their own documents, which
may happen any number of times, then clears it. So no document grows with the conversation, a crash between any two
steps leaves nothing half done, and the next one who looks finishes it.

What is deleted leaves its document without content: an item that a slow helper puts in place late finds its
document there already. Text is kept as the records' JSON: whatever a client calls its metadata is no field of ours.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from services.history.stores.port import Conversation, Holder, Recordable, Retention, StoredResponse
from shared.records import Accepted, AnyTerminal, Deleted, Item, Screening
from shared.records.codec import encode_value
from shared.topics import EVENTS
from shared.turns import turn_items

Document = Mapping[str, Any]

PENDING = "pending"  # not accepted yet: its `screening` came first
ACCEPTED = "accepted"
ENDED = "ended"
GONE = "gone"  # deleted: a tombstone
BY_RESPONSE = "response"
BY_ITEM = "item"
BY_CONVERSATION = "conversation"

_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(Item)
_metadata = msgspec.json.Decoder(dict[str, str])


class Change(NamedTuple):
    """One update of the document, or all documents, that `where` finds."""

    where: dict[str, Any]
    update: dict[str, Any]
    upsert: bool = False
    many: bool = False


# --- responses


@dataclass(frozen=True)
class Row:
    """A response as it is kept. `settled`: its conversation, if it names one, knows of its end."""

    id: str
    state: str
    tenant: str | None
    conversation: str | None
    keep: bool
    settled: bool
    ended_by: str | None
    gone_by: str | None
    accepted: bytes | None
    terminal: bytes | None

    @classmethod
    def of(cls, document: Document) -> "Row":
        return cls(
            id=document["_id"],
            state=document["state"],
            tenant=document.get("tenant"),
            conversation=document.get("conversation"),
            keep=document.get("keep", False),
            settled=document.get("settled", False),
            ended_by=document.get("ended_by"),
            gone_by=document.get("gone_by"),
            accepted=document.get("accepted"),
            terminal=document.get("terminal"),
        )

    @property
    def over(self) -> bool:
        """Whether it has ended, or is deleted."""
        return self.state in {ENDED, GONE}

    @property
    def unsettled(self) -> bool:
        """Whether a conversation has to hear of its end."""
        return self.over and not self.settled and self.conversation is not None

    def stored(self) -> StoredResponse | None:
        """What its readers get; None if nothing of it is kept."""
        if self.state != ENDED or not self.keep or self.accepted is None or self.terminal is None:
            return None
        accepted, terminal = (EVENTS.decoder.decode(blob) for blob in (self.accepted, self.terminal))
        return StoredResponse(accepted, terminal)

    @cached_property
    def brings(self) -> list[Item]:
        """What its end brings into its conversation, if that does not know of it yet."""
        if self.state != ENDED or self.settled or self.accepted is None or self.terminal is None:
            return []
        return turn_items(*(EVENTS.decoder.decode(blob) for blob in (self.accepted, self.terminal)))


def fold_changes(record: Recordable, retention: Retention, now_ms: int, call: str) -> list[Change]:
    """How the record changes its response, by the rules of `Store.record`. `call` names who ended it."""
    until_ms = retention.tombstone_until(now_ms)
    if isinstance(record, Screening):
        stub = {"$setOnInsert": _stub(until_ms), "$max": {"epoch": record.epoch}}
        return [Change({"_id": record.response_id}, stub, upsert=True)]
    if isinstance(record, Accepted):
        return _accepted(record, retention, until_ms)
    if isinstance(record, Deleted):
        return delete_response(record.response_id, record.tenant, BY_RESPONSE, until_ms)
    return [_ended(record, retention, call)]


def whole_runs(records: Sequence[Recordable]) -> Iterator[list[Recordable]]:
    """The records in their order, cut before each deletion of what the run may end: both must be told of."""
    run: list[Recordable] = []
    for record in records:
        if isinstance(record, Deleted) and any(r.response_id == record.response_id for r in run):
            yield run
            run = []
        run.append(record)
    if run:
        yield run


def _accepted(record: Accepted, retention: Retention, until_ms: int) -> list[Change]:
    spec = record.spec
    if not spec.store and spec.conversation is None:
        return []
    own = {"_id": record.response_id}
    begun = {
        "state": ACCEPTED,
        "epoch": record.epoch,
        "tenant": record.tenant,
        "parent": spec.previous_response_id,
        "conversation": spec.conversation,
        "keep": spec.store,
        "accepted": encode_value(record),
        "expires_at": retention.response_until(record.deadline_ms),
    }
    # One that was deleted before it was seen can hold its conversation's lock all the same.
    whose = {"tenant": record.tenant, "conversation": spec.conversation}
    return [
        Change(own, {"$setOnInsert": {**_stub(until_ms), "epoch": 0}}, upsert=True),
        Change({**own, "state": PENDING, "epoch": {"$lte": record.epoch}}, {"$set": begun}),
        Change({**own, "state": {"$in": [PENDING, ACCEPTED]}}, {"$max": {"epoch": record.epoch}}),
        *([Change({**own, "state": GONE, "conversation": None}, {"$set": whose})] if spec.conversation else []),
    ]


def _ended(record: AnyTerminal, retention: Retention, call: str) -> Change:
    end = {
        "state": ENDED,
        "epoch": record.epoch,
        "terminal": encode_value(record),
        "ended_by": call,
        "settled": False,
        "expires_at": retention.response_until(record.finished_ms),
    }
    return Change({"_id": record.response_id, "state": ACCEPTED, "epoch": {"$lte": record.epoch}}, {"$set": end})


def delete_response(response_id: str, tenant: str, by: str, until_ms: int) -> list[Change]:
    """Leave a tombstone of it, until `until_ms`. Deleted with one of its items, it leaves the others alone."""
    stub = {"$setOnInsert": {**_stub(until_ms), "epoch": 0}}
    tombstone = {"state": GONE, "gone_by": by, "tenant": tenant, "settled": by == BY_ITEM, "expires_at": until_ms}
    return [
        Change({"_id": response_id}, stub, upsert=True),
        Change(
            {"_id": response_id, "state": {"$ne": GONE}, "tenant": {"$in": [None, tenant]}},
            {"$set": tombstone, "$unset": {"accepted": "", "terminal": "", "parent": ""}},
        ),
    ]


def empty_responses(conversation_id: str, tenant: str, until_ms: int) -> list[Change]:
    """Take their content from the responses of a deleted conversation; those that still run follow as they end."""
    ran = {"conversation": conversation_id, "tenant": tenant}
    emptied = {"$unset": {"accepted": "", "terminal": "", "parent": ""}}
    return [
        Change({**ran, "state": ACCEPTED}, emptied, many=True),
        Change({**ran, "state": ENDED}, {**emptied, "$set": {"expires_at": until_ms}}, many=True),
    ]


def mark_settled(row: Row, *, kept: bool, until_ms: int) -> Change:
    """Its conversation knows of it now; what is not `kept` loses its content, and is remembered until `until_ms`."""
    where = {"_id": row.id, "state": row.state}
    if row.state == GONE or kept:
        return Change(where, {"$set": {"settled": True}})
    emptied = {"$set": {"settled": True, "expires_at": until_ms}, "$unset": {"accepted": "", "terminal": ""}}
    return Change(where, emptied)


def _stub(until_ms: int) -> dict[str, Any]:
    """A response of which nothing is known but its id, and perhaps its epoch: nobody waits for it for ever."""
    return {"state": PENDING, "tenant": None, "conversation": None, "expires_at": until_ms}


# --- conversations


@dataclass(frozen=True, slots=True)
class Placed:
    """An item and its place in its conversation; places grow, with gaps where an id was there before."""

    item: Item
    position: int


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation's document. `next`: the place behind all items; `pending`: those not in their documents yet."""

    id: str
    tenant: str
    created_ms: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    holder: Holder | None = None
    next: int = 0
    pending: tuple[Placed, ...] = ()
    deleted_until: int | None = None
    version: int = 0

    @classmethod
    def of(cls, document: Document) -> "Talk":
        """Numbers become plain ones: BSON's are of a class of their own, which records cannot carry."""
        holder, deleted_until = document["holder"], document["expires_at"]
        return cls(
            id=document["_id"],
            tenant=document["tenant"],
            created_ms=int(document["created_ms"]),
            metadata=_metadata.decode(document["metadata"]),
            holder=Holder(holder["response_id"], int(holder["deadline_ms"])) if holder else None,
            next=int(document["next"]),
            pending=tuple(Placed(_items.decode(p["data"]), int(p["position"])) for p in document["pending"]),
            deleted_until=None if deleted_until is None else int(deleted_until),
            version=int(document["version"]),
        )

    def document(self) -> dict[str, Any]:
        """What is kept of it, its id aside."""
        holder = self.holder
        return {
            "tenant": self.tenant,
            "created_ms": self.created_ms,
            "metadata": _encode(self.metadata),
            "holder": {"response_id": holder.response_id, "deadline_ms": holder.deadline_ms} if holder else None,
            "next": self.next,
            "pending": [{"data": _encode(p.item), "position": p.position} for p in self.pending],
            "expires_at": self.deleted_until,
            "version": self.version,
        }

    @property
    def conversation(self) -> Conversation:
        """What its readers get."""
        return Conversation(self.id, self.tenant, self.created_ms, self.metadata, self.holder)

    @property
    def deleted(self) -> bool:
        return self.deleted_until is not None

    def swap(self, wanted: "Talk") -> Change:
        """Make it `wanted`, unless it has changed since it was read."""
        document = replace(wanted, version=self.version + 1).document()
        return Change({"_id": self.id, "version": self.version}, {"$set": document})

    def completed(self) -> "Talk":
        """As it stands once `complete` is done."""
        return replace(self, pending=(), version=self.version + 1) if self.pending else self

    def with_items(self, items: Sequence[Item], known: Collection[str]) -> "Talk":
        """With those items pending whose ids it does not know."""
        new: dict[str, Item] = {}
        for item in items:
            if item_key(self.id, item.id) not in known:
                new.setdefault(item.id, item)
        placed = tuple(Placed(item, self.next + place) for place, item in enumerate(new.values()))
        return replace(self, pending=placed, next=self.next + len(placed)) if placed else self

    def locked(self, holder: Holder) -> "Talk":
        return self if self.holder is not None else replace(self, holder=holder)

    def with_metadata(self, metadata: Mapping[str, str]) -> "Talk":
        return replace(self, metadata=dict(metadata))

    def released(self, response_id: str) -> "Talk":
        holds = self.holder is not None and self.holder.response_id == response_id
        return replace(self, holder=None) if holds else self

    def erased(self, until_ms: int) -> "Talk":
        if self.deleted:
            return self
        return replace(self, metadata={}, holder=None, pending=(), deleted_until=until_ms)


def put_items(talk: Talk) -> list[Change]:
    """The pending items into documents of their own, where they have none yet."""
    return [
        Change(
            {"_id": item_key(talk.id, placed.item.id)},
            {
                "$setOnInsert": {
                    "conversation": talk.id,
                    "item": placed.item.id,
                    "response_id": placed.item.response_id,
                    "position": placed.position,
                    "place": placed.position,
                    "data": _encode(placed.item),
                }
            },
            upsert=True,
        )
        for placed in talk.pending
    ]


def after_end(talk: Talk | None, row: Row, known: Collection[str], *, told: bool, fenced: bool) -> Talk | None:
    """The conversation as the end of `row` leaves it; None: it knows of it already, or will never.

    `known`: the items that it has or had. `told`: its end came just now, perhaps again. `fenced`: the conversation has
    changed since the response was seen deleted. Until then a tombstone always makes a new version: who read the
    response before, and is about to append its items, comes too late then.
    """
    if talk is None or talk.deleted:
        return None
    wanted = talk.released(row.id) if told or row.state == ENDED else talk
    wanted = wanted.with_items(row.brings, known)
    must_fence = row.state == GONE and not row.settled and not fenced
    return None if wanted == talk and not must_fence else wanted


# --- items


def item_key(conversation_id: str, item_id: str) -> str:
    return f"{conversation_id}/{item_id}"


def item_of(document: Document) -> Item:
    return _items.decode(document["data"])


def erase_items(where: Mapping[str, Any], by: str, until_ms: int) -> Change:
    """Leave tombstones of those among the items `where` that are not erased yet: no page meets them any more."""
    tombstone = {"$set": {"erased_by": by, "expires_at": until_ms}, "$unset": {"data": "", "position": ""}}
    return Change({**where, "position": {"$gte": 0}}, tombstone, many=True)
