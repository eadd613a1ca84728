"""The `Store` port over one SQLite file."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from services.history.errors import StoreError
from services.history.stores.port import (
    Addition,
    Conversation,
    Holder,
    ItemPage,
    NotThere,
    Recordable,
    Recorded,
    Retention,
    StoredResponse,
)
from services.history.stores.sqlite import conversations, responses
from services.history.stores.sqlite.file import Connection
from services.history.stores.sqlite.schema import migrate
from services.history.stores.sqlite.sweep import forget_expired
from shared.ids import now_ms
from shared.records import Deleted, Item


class SqliteStore:
    """One thread that writes, one that reads; see `services.history.stores.port` for what the methods promise.

    The file's folder is created.
    """

    system = "sqlite"

    def __init__(
        self,
        path: Path,
        busy_timeout_s: float = 2.0,
        *,
        retention: Retention | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.name = str(path)
        self._path = path
        self._retention = retention or Retention()
        self._clock_ms = clock_ms
        self._writer = Connection(path, "history-writer", "IMMEDIATE", busy_timeout_s)
        self._reader = Connection(path, "history-reader", "DEFERRED", busy_timeout_s)

    async def open(self) -> None:
        """Create or migrate the file. Raises StoreError when it is damaged or of a later release."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {self._path.parent} (CHATMESH_DATA_DIR): {error}") from error
        await self._writer.open()
        # Erases, because a process that was killed may have left what it erased in the write-ahead log.
        await self._writer.erase(lambda c: migrate(c, self._retention, self._clock_ms()))
        await self._reader.open()

    async def close(self) -> None:
        """Finish the write that runs, then close the file."""
        await self._reader.close()
        await self._writer.close()

    async def record(self, records: Sequence[Recordable]) -> Recorded:
        """See `Store.record`."""

        def work(connection: sqlite3.Connection) -> Recorded:
            return responses.Recording(connection, self._retention, self._clock_ms()).apply(records)

        erases = any(isinstance(record, Deleted) for record in records)
        return await (self._writer.erase(work) if erases else self._writer.run(work))

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """See `Store.get`."""
        return await self._reader.run(lambda c: responses.get(c, tenant, response_id))

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        """See `Store.chain`."""
        return await self._reader.run(lambda c: responses.chain(c, tenant, response_id, limit))

    async def create_conversation(self, conversation: Conversation, items: Sequence[Item]) -> Conversation | None:
        """See `Conversations.create_conversation`."""
        return await self._writer.run(lambda c: conversations.create(c, conversation, items))

    async def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """See `Conversations.conversation`."""
        return await self._reader.run(lambda c: conversations.get(c, tenant, conversation_id))

    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Conversation | None:
        """See `Conversations.set_metadata`."""
        return await self._writer.run(lambda c: conversations.set_metadata(c, tenant, conversation_id, metadata))

    async def lock(self, tenant: str, conversation_id: str, holder: Holder) -> Conversation | None:
        """See `Conversations.lock`."""
        return await self._writer.run(lambda c: conversations.lock(c, tenant, conversation_id, holder))

    async def release(self, tenant: str, conversation_id: str, response_id: str) -> None:
        """See `Conversations.release`."""
        await self._writer.run(lambda c: conversations.release(c, tenant, conversation_id, response_id))

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> Addition:
        """See `Conversations.add_items`."""
        return await self._writer.run(lambda c: conversations.add_items(c, tenant, conversation_id, items))

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
        return await self._reader.run(
            lambda c: conversations.page(c, tenant, conversation_id, limit, order, after, max_bytes)
        )

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item | NotThere:
        """See `Conversations.item`."""
        return await self._reader.run(lambda c: conversations.item(c, tenant, conversation_id, item_id))

    async def erase_item(self, tenant: str, conversation_id: str, item_id: str) -> str | NotThere | None:
        """See `Conversations.erase_item`."""

        def work(connection: sqlite3.Connection) -> str | NotThere | None:
            until_ms = self._retention.tombstone_until(self._clock_ms())
            if conversations.get(connection, tenant, conversation_id) is None:
                return NotThere.CONVERSATION
            brought_by = conversations.erase_item(connection, conversation_id, item_id, until_ms)
            if isinstance(brought_by, str):
                responses.delete(connection, brought_by, tenant, until_ms)
            return brought_by

        return await self._writer.erase(work)

    async def erase_conversation(self, tenant: str, conversation_id: str) -> list[str] | None:
        """See `Conversations.erase_conversation`."""

        def work(connection: sqlite3.Connection) -> list[str] | None:
            until_ms = self._retention.tombstone_until(self._clock_ms())
            if not conversations.erase(connection, tenant, conversation_id, until_ms):
                return None
            return responses.erase_of(connection, tenant, conversation_id)

        return await self._writer.erase(work)

    async def forget_expired(self, now_ms: int, limit: int) -> int:
        """See `Conversations.forget_expired`."""
        return await self._writer.erase(lambda c: forget_expired(c, now_ms, limit))
