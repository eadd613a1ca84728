"""A connection to the SQLite file: its thread, its transactions, what its errors mean, and that erased is erased."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError

T = TypeVar("T")

_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
# What passes by itself, or once somebody made room: https://sqlite.org/rescode.html. The rest of what the driver calls
# operational is wrong for ever, as "no such table" is.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    }
)
_BUSY_PAUSE_S = 0.005


class Connection:
    """A connection and the one thread that may touch it."""

    def __init__(self, path: Path, name: str, begin: Literal["IMMEDIATE", "DEFERRED"], busy_timeout_s: float) -> None:
        self._path = path
        self._begin = f"BEGIN {begin}"
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Raises StoreError, StoreUnavailableError."""
        await self._call(self._open)

    async def close(self) -> None:
        """Finish what runs."""
        await self._call(self._close)
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` inside one transaction that ends with it."""
        return await self._call(lambda: self._transaction(work))

    async def erase(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, for work that deletes content: once this returns, no file has it any more.

        SQLite overwrites what is deleted (`secure_delete`), but the write-ahead log keeps the pages as they were until
        it is emptied. While others read for longer than the busy timeout it cannot be: the next `erase` does it then.
        """
        return await self._call(lambda: self._erase(work))

    def _open(self) -> None:
        # isolation_level None: transactions are begun below, visibly, not by the driver.
        connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
        try:
            switch_to_wal(connection, self._busy_timeout_s)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailableError(f"{self._path} is not open")
        return self._connection

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._opened()
        connection.execute(self._begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back on a full disk and on I/O errors
                connection.execute("ROLLBACK")
            raise
        return result

    def _erase(self, work: Callable[[sqlite3.Connection], T]) -> T:
        result = self._transaction(work)
        self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return result

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            unavailable = _primary_code(error) in _PASSING
            raise (StoreUnavailableError if unavailable else StoreError)(f"{self._path}: {error}") from error
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
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_s:
                raise
            time.sleep(_BUSY_PAUSE_S)  # on the connection's own thread
        else:
            return


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's own code; None for what the driver made up."""
    extended: int | None = getattr(error, "sqlite_errorcode", None)
    return None if extended is None else extended & 0xFF
