"""MongoDB, through motor: what SQLite's file promises, on a server that several machines share.

Motor is deprecated in favour of PyMongo's own asynchronous client. The step there changes this file alone, in four
places: the import of motor, `Client` and `Collection` (`AsyncMongoClient`, `AsyncCollection`), and `close`, which is
awaited then. Errors and bulk operations are PyMongo's already.

Writes are acknowledged by a majority, with their journal; reads see what a majority has. There are no transactions,
so a single node serves as well as a replica set. What is kept, and every decision, stands in `documents.py`.
"""

import secrets
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlsplit

from bson.errors import BSONError
from dns.exception import DNSException
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import UpdateMany, UpdateOne, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.documents import (
    BY_CONVERSATION,
    BY_ITEM,
    BY_RESPONSE,
    ENDED,
    GONE,
    Change,
    Document,
    Row,
    Talk,
    after_end,
    delete_response,
    empty_responses,
    erase_items,
    fold_changes,
    item_key,
    item_of,
    mark_settled,
    put_items,
    whole_runs,
)
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
from shared.ids import now_ms
from shared.records import TERMINALS, Deleted, Item

P = ParamSpec("P")
T = TypeVar("T")
Client = AsyncIOMotorClient[dict[str, Any]]
Collection = AsyncIOMotorCollection[dict[str, Any]]

_DEFAULT_DATABASE = "chatmesh"
# A server that is gone shows within seconds; what the URL says of these counts.
_OPTIONS: Mapping[str, int] = {
    "serverSelectionTimeoutMS": 2_000,
    "connectTimeoutMS": 2_000,
    "socketTimeoutMS": 5_000,
    "waitQueueTimeoutMS": 5_000,
}
_SAFE_WRITE = WriteConcern("majority", wtimeout=4_000, j=True)
_SAFE_READ = ReadConcern("majority")
# Conversations are changed by who read them as they stand; each time that fails, another one got on.
_MOST_ROUNDS = 100
_READ_AT_ONCE = 200
_WRITTEN_AT_ONCE = 100

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
_BAD_CONFIGURATION = {13: "Unauthorized", 18: "AuthenticationFailed", 33: "UnsupportedFormat", 73: "InvalidNamespace"}
_BAD_DOCUMENT = {2: "BadValue", 14: "TypeMismatch", 22: "InvalidBSON", 10334: "BSONObjectTooLarge"}
_BAD_DOCUMENT |= {16493: "RecordTooLarge", 17419: "after update", 17420: "after upsert", 17280: "KeyTooLong"}

# Each step is one schema version: collection → its indexes. Append; never edit.
MIGRATIONS: tuple[Mapping[str, Sequence[Sequence[str]]], ...] = (
    {
        "responses": [["conversation"], ["expires_at"]],
        "conversations": [["expires_at"]],
        "items": [["conversation", "position"], ["response_id"], ["expires_at"]],
    },
)
_COLLECTIONS = ("responses", "conversations", "items")


def name_of(url: str) -> str:
    """The server and database of a MongoDB URL as logs and errors may show it: without user, password and options."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{hosts}{parts.path}" if hosts else "MONGODB_URL"


def connect(url: str) -> Client:
    """A client that has not said anything yet. Raises PyMongoError for a URL that is none."""
    said = {key.lower() for key, _ in parse_qsl(urlsplit(url).query)}
    options: dict[str, Any] = {key: value for key, value in _OPTIONS.items() if key.lower() not in said}
    return AsyncIOMotorClient(url, appname="chatmesh-history", **options)


def _translated(
    method: "Callable[Concatenate[MongoStore, P], Coroutine[Any, Any, T]]",
) -> "Callable[Concatenate[MongoStore, P], Coroutine[Any, Any, T]]":
    """What the driver raises, as history's errors."""

    @wraps(method)
    async def wrapper(self: "MongoStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except (PyMongoError, BSONError, OverflowError, UnicodeError) as error:
            raise _translate(self.name, error) from error

    return wrapper


class MongoStore:
    """The `Store` port and `Conversations` over the database that `url` names (chatmesh, if it names none)."""

    system = "mongodb"

    def __init__(
        self,
        url: str,
        retention: Retention | None = None,
        clock_ms: Callable[[], int] = now_ms,
        connect: Callable[[str], Client] = connect,
    ) -> None:
        self.name = name_of(url)
        self._url = url
        self._retention = retention or Retention()
        self._clock_ms = clock_ms
        self._connect = connect
        self._client: Client | None = None

    def connect(self) -> None:
        """Make the client, unless there is one; it connects as it is used."""
        if self._client is None:
            self._client = self._connect(self._url)

    @_translated
    async def open(self) -> None:
        """Connect; create or migrate the schema. Raises StoreError for a wrong URL, wrong rights, a later schema."""
        self.connect()
        found = await self._collection("schema_migrations").find({}).sort("_id", -1).limit(1).to_list(1)
        version = found[0]["_id"] if found else 0
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.name} has schema version {version}, this release knows {len(MIGRATIONS)}: run a later release"
            )
        for number, indexes in enumerate(MIGRATIONS[version:], start=version + 1):
            await self._migrate(number, indexes)

    async def _migrate(self, number: int, indexes: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Two replicas may do so at once: an index that exists is made again without effect."""
        for collection, keys in indexes.items():
            for key in keys:
                await self._collection(collection).create_index([(name, 1) for name in key])
        applied = {"$setOnInsert": {"applied_ms": self._clock_ms()}}
        await self._collection("schema_migrations").update_one({"_id": number}, applied, upsert=True)

    async def close(self) -> None:
        """Disconnect; what runs fails."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # Responses

    @_translated
    async def record(self, records: Sequence[Recordable]) -> Recorded:
        """See `Store.record`."""
        told = [await self._record(run) for run in whole_runs(records)]
        appended = {a.response_id: a for run in told for a in run.appended}
        withdrawn = {a.response_id: a for run in told for a in run.withdrawn}
        return Recorded(
            ended=frozenset().union(*(run.ended for run in told)),
            appended=tuple(appended.values()),
            withdrawn=tuple(withdrawn.values()),
            forgotten=frozenset().union(*(run.forgotten for run in told)),
        )

    async def _record(self, records: Sequence[Recordable]) -> Recorded:
        """The records of a whole run, in round trips that hardly grow with their number."""
        call = secrets.token_hex(8)
        now = self._clock_ms()
        await self._change("responses", [c for r in records for c in fold_changes(r, self._retention, now, call)])
        ends = {record.response_id for record in records if isinstance(record, TERMINALS)}
        deletions = {record.response_id for record in records if isinstance(record, Deleted)}
        rows = await self._rows(ends | deletions)
        settled = await self._settle([row for row in rows.values() if row.over and row.conversation], ends)
        ended = {row.id for row in rows.values() if row.ended_by == call and row.keep}
        told = [(row, talk) for row, talk in settled if row.state == ENDED and row.id in ends]
        forgotten = {row.id for row, talk in told if talk is not None and talk.deleted}
        appended = [(row, talk) for row, talk in told if row.id not in forgotten]
        withdrawn = [(row, talk) for row, talk in settled if row.state == GONE and row.id in deletions]
        return Recorded(
            ended=frozenset(ended - forgotten),
            appended=await self._moved(appended),
            withdrawn=await self._moved(withdrawn, erased_by=BY_RESPONSE),
            forgotten=frozenset(forgotten),
        )

    async def _settle(self, rows: Iterable[Row], told: Iterable[str] = ()) -> list[tuple[Row, Talk | None]]:
        """Let the conversations know that these responses, which name them, ended or were deleted.

        `told`: those whose end came just now. Returns them as they and their conversations stand then.
        """
        outcome = await self._tell_conversations({row.id: row for row in rows}, frozenset(told))
        until_ms = self._tombstone_until()
        unsettled = [(row, talk) for row, talk in outcome if row.unsettled]
        went = [row for row, talk in unsettled if row.state == GONE and talk is not None]
        await self._change(
            "items",
            [erase_items({"response_id": r.id, "conversation": r.conversation}, BY_RESPONSE, until_ms) for r in went],
        )
        await self._change(
            "responses",
            [
                mark_settled(row, kept=row.keep and not (talk is not None and talk.deleted), until_ms=until_ms)
                for row, talk in unsettled
            ],
        )
        return outcome

    async def _tell_conversations(self, waiting: dict[str, Row], told: frozenset[str]) -> list[tuple[Row, Talk | None]]:
        """All conversations at once, each by one response at a time, until all of them know.

        In every round the conversations are read before the responses: whoever appends has seen every deletion that
        came before the version that it replaces.
        """
        outcome: list[tuple[Row, Talk | None]] = []
        first_seen: dict[str, int] = {}
        for _ in range(_MOST_ROUNDS):
            if not waiting:
                return outcome
            talks = await self._talks({row.conversation for row in waiting.values() if row.conversation})
            waiting = await self._rows(waiting)
            known = await self._known(
                item_key(row.conversation or "", i.id) for row in waiting.values() for i in row.brings
            )
            changes: dict[str, Change] = {}
            for row in list(waiting.values()):
                talk = _own(talks.get(row.conversation or ""), row.tenant)
                fenced = talk is not None and first_seen.setdefault(row.id, talk.version) != talk.version
                wanted = after_end(talk, row, known, told=row.id in told, fenced=fenced)
                if talk is None or wanted is None:
                    outcome.append((waiting.pop(row.id), talk))
                else:
                    changes.setdefault(talk.id, talk.swap(wanted))
            await self._change("conversations", changes.values())
        raise self._too_fast()

    async def _moved(
        self, settled: Sequence[tuple[Row, Talk | None]], erased_by: str | None = None
    ) -> tuple[Appended, ...]:
        """What each of the responses brought into its conversation, or what left that by `erased_by`."""
        within = {row.id: talk for row, talk in settled if talk is not None}
        if not within:
            return ()
        where = {"response_id": {"$in": list(within)}, **({"erased_by": erased_by} if erased_by else {})}
        ids: dict[str, list[str]] = {}
        async for found in self._collection("items").find(where, {"data": 0}).sort("place", 1):
            if found["conversation"] == within[found["response_id"]].id:
                ids.setdefault(found["response_id"], []).append(found["item"])
        return tuple(
            Appended(within[response_id].id, within[response_id].tenant, response_id, tuple(item_ids))
            for response_id, item_ids in ids.items()
        )

    @_translated
    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """See `Store.get`."""
        return await self._stored(tenant, response_id)

    @_translated
    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        """See `Store.chain`."""
        turns: list[StoredResponse] = []
        wanted: str | None = response_id
        while wanted is not None and len(turns) < limit:
            turn = await self._stored(tenant, wanted)
            if turn is None:
                break
            turns.append(turn)
            wanted = turn.previous_response_id
        return turns[::-1]

    async def _stored(self, tenant: str, response_id: str) -> StoredResponse | None:
        """An end and what it brought into its conversation are seen at once: who finds one, finishes the other."""
        row = (await self._rows([response_id])).get(response_id)
        if row is None or row.tenant != tenant:
            return None
        if row.unsettled:
            await self._settle([row])
            row = (await self._rows([response_id])).get(response_id)
        return None if row is None else row.stored()

    # Conversations

    @_translated
    async def create_conversation(self, conversation: Conversation, items: Sequence[Item]) -> Conversation | None:
        """See `Conversations.create_conversation`."""
        begun = Talk(conversation.id, conversation.tenant, conversation.created_ms, dict(conversation.metadata))
        document = begun.with_items(items, ()).document()
        with suppress(DuplicateKeyError):  # it is there, or somebody else's, or deleted: reading it tells
            await self._collection("conversations").insert_one({"_id": conversation.id, **document})
        talk = await self._talk(conversation.tenant, conversation.id)
        return _conversation(talk)

    @_translated
    async def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """See `Conversations.conversation`."""
        talk = await self._talk(tenant, conversation_id)
        return _conversation(talk)

    @_translated
    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """See `Conversations.set_metadata`."""
        talk = await self._changed(tenant, conversation_id, lambda talk: talk.with_metadata(metadata))
        return _conversation(talk)

    @_translated
    async def lock(self, tenant: str, conversation_id: str, holder: Holder) -> Conversation | None:
        """See `Conversations.lock`."""
        talk = await self._changed(tenant, conversation_id, lambda talk: talk.locked(holder))
        return _conversation(talk)

    @_translated
    async def release(self, tenant: str, conversation_id: str, response_id: str) -> None:
        """See `Conversations.release`."""
        await self._changed(tenant, conversation_id, lambda talk: talk.released(response_id))

    @_translated
    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> Addition:
        """See `Conversations.add_items`."""
        for _ in range(_MOST_ROUNDS):
            talk = await self._talk(tenant, conversation_id)
            if talk is None:
                return Addition.NOT_FOUND
            known = await self._known(item_key(talk.id, item.id) for item in items)
            wanted = talk.with_items(items, known)
            if wanted == talk:
                return Addition.DONE
            if talk.holder is not None:
                return Addition.LOCKED
            if await self._swapped(talk, wanted):
                await self._talks([talk.id])
                return Addition.DONE
        raise self._too_fast()

    @_translated
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
        """See `Conversations.items`."""
        talk = await self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        # What others append meanwhile stands behind `next`: a page sees all of it or none.
        bounds = {"$gte": 0, "$lt": talk.next}
        if after is not None:
            last = await self._item(talk, after)
            if last is None:
                return NotThere.ITEM
            bounds |= {"$gt": last["position"]} if order == "asc" else {"$lt": last["position"]}
        where = {"conversation": conversation_id, "position": bounds}
        found = self._collection("items").find(where, {"data": 1}, batch_size=min(limit + 1, _READ_AT_ONCE))
        return await _page(found.sort("position", 1 if order == "asc" else -1).limit(limit + 1), limit, max_bytes)

    @_translated
    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item | NotThere:
        """See `Conversations.item`."""
        talk = await self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        found = await self._item(talk, item_id)
        return NotThere.ITEM if found is None else item_of(found)

    @_translated
    async def erase_item(self, tenant: str, conversation_id: str, item_id: str) -> str | NotThere | None:
        """See `Conversations.erase_item`."""
        talk = await self._talk(tenant, conversation_id)
        if talk is None:
            return NotThere.CONVERSATION
        key = item_key(conversation_id, item_id)
        found = await self._collection("items").find_one({"_id": key}, {"data": 0})
        if found is None or found["place"] >= talk.next:
            return NotThere.ITEM
        response_id: str | None = found.get("response_id")
        if "erased_by" not in found:
            until_ms = self._tombstone_until()
            # The item last: while it is there, whoever asks again does the whole again.
            if response_id is not None:
                await self._change("responses", delete_response(response_id, tenant, BY_ITEM, until_ms))
            await self._change("items", [erase_items({"_id": key}, BY_ITEM, until_ms)])
        return response_id

    @_translated
    async def erase_conversation(self, tenant: str, conversation_id: str) -> list[str] | None:
        """See `Conversations.erase_conversation`."""
        until_ms = self._tombstone_until()
        talk = await self._changed(tenant, conversation_id, lambda talk: talk.erased(until_ms), deleted=True)
        if talk is None:
            return None
        await self._change("responses", empty_responses(conversation_id, tenant, until_ms))
        await self._change("items", [erase_items({"conversation": conversation_id}, BY_CONVERSATION, until_ms)])
        ran = {"conversation": conversation_id, "tenant": tenant, "state": {"$in": [ENDED, GONE]}}
        return [row["_id"] async for row in self._collection("responses").find(ran, {"_id": 1}).sort("_id", 1)]

    @_translated
    async def forget_expired(self, now_ms: int, limit: int) -> int:
        """See `Conversations.forget_expired`."""
        forgotten = 0
        for name in _COLLECTIONS:
            passed = {"expires_at": {"$lte": now_ms}}
            found = self._collection(name).find(passed, {"_id": 1}).limit(limit - forgotten)
            ids = [document["_id"] async for document in found]
            if ids:
                deleted = await self._collection(name).delete_many({**passed, "_id": {"$in": ids}})
                forgotten += deleted.deleted_count
            if forgotten >= limit:
                break
        return forgotten

    # Documents

    async def _rows(self, response_ids: Iterable[str]) -> dict[str, Row]:
        return {d["_id"]: Row.of(d) for d in await self._with_ids("responses", response_ids)}

    async def _known(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the items that are there or were."""
        return frozenset(d["_id"] for d in await self._with_ids("items", keys, {"_id": 1}))

    async def _item(self, talk: Talk, item_id: str) -> dict[str, Any] | None:
        """The item's document, unless it is erased or not the conversation's yet."""
        found = await self._collection("items").find_one({"_id": item_key(talk.id, item_id)})
        return found if found is not None and found.get("position", talk.next) < talk.next else None

    async def _talk(self, tenant: str, conversation_id: str, *, deleted: bool = False) -> Talk | None:
        """The tenant's conversation; only where `deleted`, also one that is deleted."""
        talk = _own((await self._talks([conversation_id])).get(conversation_id), tenant)
        return talk if talk is None or deleted or not talk.deleted else None

    async def _talks(self, conversation_ids: Iterable[str]) -> dict[str, Talk]:
        """The conversations, of whichever tenant. What was appended to them has its documents once this returns."""
        talks = [Talk.of(document) for document in await self._with_ids("conversations", conversation_ids)]
        begun = [talk for talk in talks if talk.pending]
        await self._change("items", [change for talk in begun for change in put_items(talk)])
        await self._change("conversations", [talk.swap(replace(talk, pending=())) for talk in begun])
        return {talk.id: talk.completed() for talk in talks}

    async def _changed(
        self, tenant: str, conversation_id: str, decide: Callable[[Talk], Talk], *, deleted: bool = False
    ) -> Talk | None:
        """The tenant's conversation as it stands once it is what `decide` makes of it; None if there is none."""
        for _ in range(_MOST_ROUNDS):
            talk = await self._talk(tenant, conversation_id, deleted=deleted)
            wanted = decide(talk) if talk is not None else None
            if talk is None or wanted is None or wanted == talk or await self._swapped(talk, wanted):
                return wanted
        raise self._too_fast()

    async def _swapped(self, talk: Talk, wanted: Talk) -> bool:
        """Whether it still was as it was read, and now is as `wanted`."""
        change = talk.swap(wanted)
        return (await self._collection("conversations").update_one(change.where, change.update)).matched_count == 1

    async def _with_ids(
        self, name: str, ids: Iterable[str], fields: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """The documents of these ids, as far as they are there."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        where = {"_id": wanted[0] if len(wanted) == 1 else {"$in": wanted}}
        return await self._collection(name).find(where, fields).to_list(len(wanted))

    async def _change(self, name: str, changes: Iterable[Change]) -> None:
        """In their order, in few round trips: each of a size that a slow server too carries out within its timeout."""
        operations = [
            UpdateMany(c.where, c.update) if c.many else UpdateOne(c.where, c.update, upsert=c.upsert) for c in changes
        ]
        for begin in range(0, len(operations), _WRITTEN_AT_ONCE):
            await self._collection(name).bulk_write(operations[begin : begin + _WRITTEN_AT_ONCE], ordered=True)

    def _collection(self, name: str) -> Collection:
        if self._client is None:
            raise StoreUnavailableError(f"{self.name} is not open")
        database = self._client.get_default_database(_DEFAULT_DATABASE)
        return database.get_collection(name, write_concern=_SAFE_WRITE, read_concern=_SAFE_READ)

    def _tombstone_until(self) -> int:
        return self._retention.tombstone_until(self._clock_ms())

    def _too_fast(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.name}: others changed a conversation {_MOST_ROUNDS} times meanwhile")


async def _page(found: AsyncIterable[Document], limit: int, max_bytes: int | None) -> ItemPage:
    """As many items from the front as fit, but at least one."""
    page: list[Item] = []
    left = max_bytes
    async for document in found:
        item = item_of(document)
        if left is not None:
            left -= item_bytes(item)
        if len(page) == limit or (page and left is not None and left < 0):
            return ItemPage(page, has_more=True)
        page.append(item)
    return ItemPage(page, has_more=False)


def _conversation(talk: Talk | None) -> Conversation | None:
    return None if talk is None else talk.conversation


def _own(talk: Talk | None, tenant: str | None) -> Talk | None:
    return talk if talk is not None and talk.tenant == tenant else None


def _translate(name: str, error: Exception) -> StoreError:
    """The three ways on which the service acts; the driver's own words are kept where they can quote no document."""
    codes = _codes(error)
    said = f"{name}: {type(error).__name__} {_words(error, codes)}"
    if isinstance(error.__cause__, DNSException):  # the driver calls that a wrong configuration
        return StoreUnavailableError(said)
    if isinstance(error, ConfigurationError):  # InvalidURI is one
        return StoreError(f"{name}: MONGODB_URL is no address that the driver can use: {type(error).__name__}")
    if codes & _BAD_CONFIGURATION.keys():
        return StoreError(f"{said} (check the user, password and database of MONGODB_URL, and the user's rights)")
    if isinstance(error, DocumentTooLarge):
        return StoreRefusedError(said)
    if isinstance(error, (BSONError, OverflowError, UnicodeError)):  # their words quote the document
        return StoreRefusedError(f"{name}: {type(error).__name__}")
    if codes & _BAD_DOCUMENT.keys():
        return StoreRefusedError(said)
    # Not reachable, no majority in time, not primary, a race that the driver lost (DuplicateKeyError), a full disk.
    return StoreUnavailableError(said)


def _words(error: Exception, codes: set[int]) -> str:
    """What the server refused it repeats, document and command included: of that the error's number and name."""
    if not isinstance(error, OperationFailure):
        return str(error)
    numbers = ", ".join(f"code {code}" for code in sorted(codes)) or "without a code"
    name = (error.details or {}).get("codeName")
    return f"{numbers} ({name})" if name else numbers


def _codes(error: Exception) -> set[int]:
    if isinstance(error, BulkWriteError):
        return {int(failure["code"]) for failure in (error.details or {}).get("writeErrors", [])}
    return {error.code} if isinstance(error, OperationFailure) and error.code is not None else set()
