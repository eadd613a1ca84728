"""What expires leaves the file."""

import sqlite3

_EXPIRED = tuple(
    f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE expires_at <= :now_ms LIMIT :limit)"
    for table in ("responses", "conversations", "erased_items")
)


def forget_expired(connection: sqlite3.Connection, now_ms: int, limit: int) -> int:
    """Delete up to `limit` rows whose time (unix ms) has come; returns how many."""
    count = 0
    for statement in _EXPIRED:
        count += connection.execute(statement, {"now_ms": now_ms, "limit": limit - count}).rowcount
    return count
