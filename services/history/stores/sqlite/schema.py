"""The tables of the SQLite file, and how one release's become the next one's."""

import sqlite3
from enum import IntEnum

from services.history.errors import StoreError
from services.history.stores.port import Retention


class Phase(IntEnum):
    """How far the fold of a response is (`shared.folds.EventFold`). It only ever grows."""

    UNKNOWN = 0
    BEGUN = 1
    ENDED = 2
    DELETED = 3


# Every statement list is one schema version, applied once, in one transaction. Append; never edit. A statement may name
# :now_ms, :response_ms and :tombstone_ms.
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
    (
        # `phase` is the fold's, whatever became of the content: `accepted` and `terminal` are NULL where it is erased,
        # or was not to be stored. `conversation`: the one that it named. `expires_at` NULL: never.
        """
        CREATE TABLE responses_2 (
            id TEXT NOT NULL UNIQUE,
            phase INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            tenant TEXT,
            conversation TEXT,
            parent TEXT,
            accepted BLOB,
            terminal BLOB,
            expires_at INTEGER
        )
        """,
        """
        INSERT INTO responses_2 (id, phase, epoch, tenant, parent, accepted, terminal, expires_at)
        SELECT
            id,
            CASE WHEN deleted THEN 3 WHEN terminal IS NOT NULL THEN 2 WHEN accepted IS NOT NULL THEN 1 ELSE 0 END,
            epoch, tenant, parent, accepted, terminal,
            CASE
                WHEN terminal IS NOT NULL THEN json_extract(CAST(terminal AS TEXT), '$.finished_ms') + :response_ms
                WHEN accepted IS NOT NULL THEN json_extract(CAST(accepted AS TEXT), '$.deadline_ms') + :response_ms
                ELSE :now_ms + :tombstone_ms
            END
        FROM responses
        """,
        "DROP TABLE responses",
        "ALTER TABLE responses_2 RENAME TO responses",
        "CREATE INDEX responses_of_conversation ON responses (conversation) WHERE conversation IS NOT NULL",
        "CREATE INDEX responses_by_expiry ON responses (expires_at) WHERE expires_at IS NOT NULL",
        # A deleted one keeps its id and tenant only. `expires_at` is set from then on.
        """
        CREATE TABLE conversations (
            id TEXT NOT NULL UNIQUE,
            tenant TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            metadata BLOB NOT NULL,
            holder TEXT,
            holder_deadline_ms INTEGER,
            deleted INTEGER NOT NULL DEFAULT 0,
            expires_at INTEGER
        )
        """,
        "CREATE INDEX conversations_by_holder ON conversations (holder) WHERE holder IS NOT NULL",
        "CREATE INDEX conversations_by_expiry ON conversations (expires_at) WHERE expires_at IS NOT NULL",
        # `place` grows with every item that is added anywhere: writers take turns, so it orders each conversation.
        """
        CREATE TABLE items (
            place INTEGER PRIMARY KEY,
            conversation TEXT NOT NULL,
            id TEXT NOT NULL,
            response TEXT,
            item BLOB NOT NULL,
            UNIQUE (conversation, id)
        )
        """,
        "CREATE INDEX items_in_order ON items (conversation, place)",
        "CREATE INDEX items_of_response ON items (response) WHERE response IS NOT NULL",
        # Apart from the items, so that a page costs the same however many of its neighbours were deleted. `withdrawn`:
        # the item went with its response.
        """
        CREATE TABLE erased_items (
            conversation TEXT NOT NULL,
            id TEXT NOT NULL,
            response TEXT,
            withdrawn INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            UNIQUE (conversation, id)
        )
        """,
        "CREATE INDEX erased_items_of_response ON erased_items (response) WHERE response IS NOT NULL",
        "CREATE INDEX erased_items_by_expiry ON erased_items (expires_at)",
    ),
)


def migrate(connection: sqlite3.Connection, retention: Retention, now_ms: int) -> None:
    """Bring the file to this release's schema. Raises StoreError where it is of a later one."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)"
    )
    (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    if found > len(MIGRATIONS):
        raise StoreError(
            f"the history file has schema version {found}, this release knows {len(MIGRATIONS)}: run a later release"
        )
    times = {"now_ms": now_ms, "response_ms": retention.response_ms, "tombstone_ms": retention.tombstone_ms}
    for version, statements in enumerate(MIGRATIONS[found:], start=found + 1):
        for statement in statements:
            connection.execute(statement, times)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", (version, now_ms))
