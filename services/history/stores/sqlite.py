"""The embedded store: one SQLite file in WAL mode, one thread that writes, one that reads.

`synchronous=FULL`: Kafka's offsets are committed after `record` returns, so what it wrote must survive the loss of
power, not only of the process. One transaction, and so one fsync, per batch. Several replicas on one machine may
share the file.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.port import Recordable, Recorded, StoredResponse
from shared.ids import now_ms
from shared.records import Accepted, Deleted, Screening
from shared.records.codec import encode_value
from shared.topics import EVENTS

T = TypeVar("T")

_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_BUSY_PAUSE_S = 0.005
_PENDING_KEPT_MS = 24 * 3600 * 1000  # longer than the longest deadline plus an outage (DESIGN 10)

# Every statement list is one schema version, applied once, in one transaction. Append; never edit.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `epoch` and the first `accepted` and `terminal` are the state of EventFold. A row without `accepted` is a
        # response whose `screening` came first, or one that was deleted.
        """
        CREATE TABLE responses (
            id TEXT PRIMARY KEY,
            epoch INTEGER NOT NULL DEFAULT 0,
            tenant TEXT,
            parent TEXT,
            accepted BLOB,
            terminal BLOB,
            deleted INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID
        """,
    ),
)

_SCREENING = """
    INSERT INTO responses (id, epoch) VALUES (:id, :epoch)
    ON CONFLICT (id) DO UPDATE SET epoch = max(epoch, excluded.epoch)
"""
_ACCEPTED = """
    INSERT INTO responses (id, epoch, tenant, parent, accepted) VALUES (:id, :epoch, :tenant, :parent, :accepted)
    ON CONFLICT (id) DO UPDATE SET
        tenant = excluded.tenant, parent = excluded.parent, accepted = excluded.accepted, epoch = excluded.epoch
    WHERE accepted IS NULL AND NOT deleted AND excluded.epoch >= epoch
"""
_RAISE_EPOCH = "UPDATE responses SET epoch = max(epoch, :epoch) WHERE id = :id AND terminal IS NULL"
_TERMINAL = """
    UPDATE responses SET terminal = :terminal, epoch = :epoch
    WHERE id = :id AND accepted IS NOT NULL AND terminal IS NULL AND NOT deleted AND :epoch >= epoch
"""
_DELETED = """
    INSERT INTO responses (id, deleted) VALUES (:id, 1)
    ON CONFLICT (id) DO UPDATE SET deleted = 1, tenant = NULL, parent = NULL, accepted = NULL, terminal = NULL
    WHERE tenant IS NULL OR tenant = :tenant
"""
_FORGET_PENDING = "DELETE FROM responses WHERE accepted IS NULL AND NOT deleted AND id < :bound"
_GET = "SELECT accepted, terminal FROM responses WHERE id = :id AND tenant = :tenant AND terminal IS NOT NULL"
_CHAIN = """
    WITH RECURSIVE turns (depth, parent, accepted, terminal) AS (
        SELECT 1, parent, accepted, terminal FROM responses
        WHERE id = :id AND tenant = :tenant AND terminal IS NOT NULL
        UNION ALL
        SELECT depth + 1, r.parent, r.accepted, r.terminal FROM turns JOIN responses r ON r.id = turns.parent
        WHERE r.tenant = :tenant AND r.terminal IS NOT NULL AND depth < :limit
    )
    SELECT accepted, terminal FROM turns ORDER BY depth DESC
"""


class SqliteStore:
    """The `Store` port over one file; its folder is created."""

    def __init__(self, path: Path, busy_timeout_s: float = 2.0) -> None:
        self._path = path
        self._writer = _Connection(path, "history-writer", "BEGIN IMMEDIATE", busy_timeout_s)
        self._reader = _Connection(path, "history-reader", "BEGIN DEFERRED", busy_timeout_s)

    async def open(self) -> None:
        """Create or migrate the file. Raises StoreError when it is damaged or of a later release."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {self._path.parent} (CHATMESH_DATA_DIR): {error}") from error
        await self._writer.open()
        await self._writer.run(_migrate)
        await self._reader.open()

    async def close(self) -> None:
        """Finish the write that runs, then close the file."""
        await self._reader.close()
        await self._writer.close()

    async def record(self, records: Sequence[Recordable]) -> Recorded:
        """See `Store.record`."""
        return await self._writer.run(lambda connection: _record(connection, records))

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """See `Store.get`."""
        rows = await self._reader.run(lambda c: c.execute(_GET, {"id": response_id, "tenant": tenant}).fetchall())
        return _stored(rows[0]) if rows else None

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        """See `Store.chain`."""
        parameters = {"id": response_id, "tenant": tenant, "limit": limit}
        rows = await self._reader.run(lambda connection: connection.execute(_CHAIN, parameters).fetchall())
        return [_stored(row) for row in rows]


class _Connection:
    """A connection and the one thread that may touch it."""

    def __init__(self, path: Path, name: str, begin: str, busy_timeout_s: float) -> None:
        self._path = path
        self._begin = begin
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        await self._call(self._open)

    async def close(self) -> None:
        await self._call(self._close)
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` inside one transaction that ends with it."""
        return await self._call(lambda: self._transaction(work))

    def _open(self) -> None:
        # isolation_level None: transactions are begun below, visibly, not by the driver.
        connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
        try:
            switch_to_wal(connection, self._busy_timeout_s)
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise StoreUnavailableError(f"{self._path} is not open")
        connection.execute(self._begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back on a full disk and on I/O errors
                connection.execute("ROLLBACK")
            raise
        return result

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            raise StoreUnavailableError(f"{self._path}: {error}") from error
        except (*_REFUSALS, OverflowError, UnicodeError) as error:
            raise StoreRefusedError(f"{self._path}: {type(error).__name__} {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error


def switch_to_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Raises sqlite3.OperationalError when others hold the file for `timeout_s`.

    The switch needs the file for itself and fails at once where another connection holds it, as a second replica does
    that switches in the same moment: the busy timeout does not cover it (https://sqlite.org/c3ref/busy_handler.html).
    """
    give_up_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_s:
                raise
            time.sleep(_BUSY_PAUSE_S)  # on the connection's own thread
        else:
            return


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)"
    )
    (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    if found > len(MIGRATIONS):
        raise StoreError(
            f"the history file has schema version {found}, this release knows {len(MIGRATIONS)}: run a later release"
        )
    for version, statements in enumerate(MIGRATIONS[found:], start=found + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", (version, now_ms()))
    connection.execute(_FORGET_PENDING, {"bound": f"resp_{now_ms() - _PENDING_KEPT_MS:012x}"})


def _record(connection: sqlite3.Connection, records: Sequence[Recordable]) -> Recorded:
    return Recorded(ended=frozenset(record.response_id for record in records if _apply(connection, record)))


def _apply(connection: sqlite3.Connection, record: Recordable) -> bool:
    """True if the record ended its response."""
    values: dict[str, object] = {"id": record.response_id, "epoch": record.epoch}
    if isinstance(record, Deleted):
        connection.execute(_DELETED, {"id": record.response_id, "tenant": record.tenant})
    elif isinstance(record, Screening):
        connection.execute(_SCREENING, values)
    elif isinstance(record, Accepted):
        if record.spec.store:
            values |= {"tenant": record.tenant, "parent": record.spec.previous_response_id}
            connection.execute(_ACCEPTED, values | {"accepted": encode_value(record)})
            connection.execute(_RAISE_EPOCH, {"id": record.response_id, "epoch": record.epoch})
    else:
        changed = connection.execute(_TERMINAL, values | {"terminal": encode_value(record)}).rowcount
        return changed == 1
    return False


def _stored(row: tuple[bytes, bytes]) -> StoredResponse:
    accepted, terminal = (EVENTS.decoder.decode(blob) for blob in row)
    return StoredResponse(accepted, terminal)
