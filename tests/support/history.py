"""The three other services as history sees them: events to record, requests that need context, answers to read."""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from services.history.stores.port import StoredResponse
from services.history.stores.sqlite import SqliteStore
from shared.ids import new_id
from shared.log import GroupConsumer, LogWriter, RawRecord, Tail, decode
from shared.log.admin import admin_client, partitions_of
from shared.log.clients import make_consumer, make_producer, topic_name
from shared.log.tail import raw
from shared.records import (
    ContextRequested,
    ConversationQuery,
    DeadLetter,
    GetResponse,
    Query,
    Record,
    Reply,
    ReplyAddress,
    Requested,
)
from shared.settings import MeshSettings
from shared.topics import CONTEXT, DEAD_LETTERS, EVENTS, HISTORY_QUERIES, JOURNAL, REPLIES, Service, Topic

_POLL_S = 0.02

Asked = ContextRequested | Query
Answer = Requested | Reply


@dataclass
class HistoryProbe:
    """As an async context manager: everything that history appends inside the block is kept in `answers`."""

    settings: MeshSettings
    sqlite_file: Path
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))

    async def __aenter__(self) -> Self:
        self._owner = LogWriter(self.settings, Service.MODERATION, "owner")
        self._gateway = LogWriter(self.settings, Service.GATEWAY, "gateway")
        self._journal = Tail(self.settings, Service.MODERATION, JOURNAL)
        self._replies = Tail(self.settings, Service.GATEWAY, REPLIES)
        self._store = SqliteStore(self.sqlite_file)
        everywhere: dict[int, int | None] = dict.fromkeys(range(self.settings.partitions))
        await asyncio.gather(
            self._owner.start(),
            self._gateway.start(),
            self._journal.start(everywhere),
            self._replies.start(everywhere),
            self._store.open(),
        )
        self._reading = [
            asyncio.create_task(self._read(self._journal, JOURNAL)),
            asyncio.create_task(self._read(self._replies, REPLIES)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        for part in (self._journal, self._replies, self._gateway, self._owner):
            await part.stop()
        await self._store.close()

    async def _read(self, tail: Tail, topic: Topic) -> None:
        async for batch in tail.batches():
            for record in batch:
                self._keep(decode(topic, record).record)

    def _keep(self, record: Record) -> None:
        if isinstance(record, Requested):
            self.answers[record.response_id].append(record)
        elif isinstance(record, Reply):
            self.answers[record.correlation_id].append(record)

    async def tell(self, *records: Any) -> None:
        """Append public events, in this order, as an owner would."""
        await asyncio.gather(*(self._owner.enqueue(EVENTS, record) for record in records))

    async def ask(self, *asked: Asked) -> None:
        """Append requests for context and queries, as a gateway would."""
        topics = (CONTEXT if isinstance(record, ContextRequested) else HISTORY_QUERIES for record in asked)
        await asyncio.gather(
            *(self._gateway.enqueue(topic, record) for topic, record in zip(topics, asked, strict=True))
        )

    async def answer(self, asked: Asked, timeout_s: float = 20) -> Answer:
        """The first answer to what was asked. Raises TimeoutError."""
        correlation = asked.request.response_id if isinstance(asked, ContextRequested) else asked.correlation_id
        async with asyncio.timeout(timeout_s):
            while not self.answers.get(correlation):
                await asyncio.sleep(_POLL_S)
        return self.answers[correlation][0]

    async def put(self, topic: Topic, partition: int, key: bytes, value: bytes) -> int:
        """Append bytes that no service would write; their offset."""
        producer = make_producer(self.settings)
        await producer.start()
        try:
            sent = await producer.send_and_wait(topic_name(self.settings, topic), value, key=key, partition=partition)
        finally:
            await producer.stop()
        return int(sent.offset)

    async def stored(self, tenant: str, response_ids: Iterable[str]) -> dict[str, StoredResponse]:
        """What the store holds of these responses now."""
        found = {response_id: await self._store.get(tenant, response_id) for response_id in response_ids}
        return {response_id: kept for response_id, kept in found.items() if kept is not None}

    async def until_stored(self, tenant: str, response_ids: Iterable[str], timeout_s: float = 20) -> None:
        """Return once the store holds all of them. Raises TimeoutError."""
        missing = set(response_ids)
        async with asyncio.timeout(timeout_s):
            while missing := missing - (await self.stored(tenant, missing)).keys():
                await asyncio.sleep(_POLL_S)

    async def buried(self, source: Topic, offset: int, partition: int, timeout_s: float = 20) -> DeadLetter:
        """The dead letter of a record. Raises TimeoutError."""
        topic = DEAD_LETTERS[source.name]
        async with asyncio.timeout(timeout_s), _reader(self.settings, topic) as records:
            async for record in records:
                letter: DeadLetter = decode(topic, record).record
                if (letter.origin_partition, letter.origin_offset) == (partition, offset):
                    return letter
        raise AssertionError("unreachable: the reader ends with the timeout only")

    async def forget(self, topic: Topic) -> None:
        """Delete every record of the topic, as its retention would."""
        name = topic_name(self.settings, topic)
        places = [TopicPartition(name, number) for number in range(partitions_of(self.settings, topic))]
        async with admin_client(self.settings) as client:
            await client.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})

    async def rewind(self, group: str, topic: Topic) -> None:
        """Move a group of history's that has no members to the beginning of the log: join it, commit, leave."""
        wanted = partitions_of(self.settings, topic)
        alone = asyncio.Event()

        async def assigned(partitions: list[int]) -> None:
            if len(partitions) == wanted:
                alone.set()

        consumer = GroupConsumer(self.settings, Service.HISTORY, topic, group, on_assigned=assigned)
        await consumer.start()
        try:
            async with asyncio.timeout(20):
                await alone.wait()
            for partition in range(wanted):
                assert await consumer.commit(partition, 0), f"partition {partition} was taken away"
        finally:
            await consumer.stop()


def a_query(response_id: str, tenant: str = "acme") -> GetResponse:
    """A gateway's question for a response."""
    address = ReplyAddress(gateway="gateway_1", partition=1)
    return GetResponse(correlation_id=new_id("query"), reply_to=address, tenant=tenant, response_id=response_id)


Q = TypeVar("Q", bound=ConversationQuery)


def about(kind: type[Q], conversation_id: str, **fields: Any) -> Q:
    """A gateway's question about a conversation."""
    address = ReplyAddress(gateway="gateway_1", partition=1)
    base = {"correlation_id": new_id("query"), "reply_to": address, "tenant": "acme"}
    return kind(**base, conversation_id=conversation_id, **fields)


def _topic_of(asked: Asked) -> Topic:
    return CONTEXT if isinstance(asked, ContextRequested) else HISTORY_QUERIES


@asynccontextmanager
async def _reader(settings: MeshSettings, topic: Topic) -> AsyncIterator[AsyncIterator[RawRecord]]:
    """All records of a topic that no service may read, from its beginning."""
    consumer = make_consumer(settings, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic_name(settings, topic), 0)])
        yield (raw(message) async for message in consumer)
    finally:
        await consumer.stop()


@asynccontextmanager
async def locked(sqlite_file: Path) -> AsyncIterator[None]:
    """Nobody else writes to the store inside the block; reading goes on."""
    connection = sqlite3.connect(sqlite_file, isolation_level=None, timeout=10)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
