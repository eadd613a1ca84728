"""Responses in the file: the fold of `EventFold` in SQL, and what an end means to its conversation.

Functions of a connection inside a transaction; times are unix milliseconds.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.history.stores.port import Appended, Recordable, Recorded, Retention, StoredResponse
from services.history.stores.sqlite import conversations
from services.history.stores.sqlite.schema import Phase
from shared.records import Accepted, AnyTerminal, Deleted, Screening
from shared.records.codec import encode_value
from shared.topics import EVENTS
from shared.turns import turn_items

_SCREENING = """
    INSERT INTO responses (id, phase, epoch, expires_at) VALUES (:id, 0, :epoch, :expires_at)
    ON CONFLICT (id) DO UPDATE SET epoch = max(epoch, excluded.epoch)
"""
_ACCEPTED = """
    INSERT INTO responses (id, phase, epoch, tenant, conversation, parent, accepted, expires_at)
    VALUES (:id, 1, :epoch, :tenant, :conversation, :parent, :accepted, :expires_at)
    ON CONFLICT (id) DO UPDATE SET
        phase = 1, epoch = excluded.epoch, tenant = excluded.tenant, conversation = excluded.conversation,
        parent = excluded.parent, accepted = excluded.accepted, expires_at = excluded.expires_at
    WHERE phase = 0 AND excluded.epoch >= epoch
"""
_RAISE_EPOCH = "UPDATE responses SET epoch = max(epoch, :epoch) WHERE id = :id AND phase < 2"
_ROW = "SELECT phase, epoch, tenant, conversation, accepted FROM responses WHERE id = :id"
_END = "UPDATE responses SET phase = 2, epoch = :epoch, terminal = :terminal, expires_at = :expires_at WHERE id = :id"
_END_UNKEPT = """
    UPDATE responses
    SET phase = 2, epoch = :epoch, parent = NULL, accepted = NULL, terminal = NULL, expires_at = :expires_at
    WHERE id = :id
"""
_DELETE = """
    INSERT INTO responses (id, phase, epoch, tenant, conversation, expires_at)
    VALUES (:id, 3, 0, :tenant, NULL, :expires_at)
    ON CONFLICT (id) DO UPDATE SET
        phase = 3, tenant = excluded.tenant, parent = NULL, accepted = NULL, terminal = NULL,
        expires_at = excluded.expires_at
    WHERE phase < 3 AND (tenant IS NULL OR tenant = excluded.tenant)
"""
_ERASE_OF = """
    UPDATE responses SET parent = NULL, accepted = NULL, terminal = NULL
    WHERE conversation = :conversation AND tenant = :tenant AND accepted IS NOT NULL
"""
_OVER_OF = "SELECT id FROM responses WHERE conversation = :conversation AND tenant = :tenant AND phase >= 2 ORDER BY id"
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


@dataclass(frozen=True, slots=True)
class _Row:
    """A response as it stands. Without content, `accepted` is None."""

    phase: Phase
    epoch: int
    tenant: str | None
    conversation: str | None
    accepted: bytes | None


@dataclass(slots=True)
class Recording:
    """A batch of records on its way into the file, and what became of it so far."""

    connection: sqlite3.Connection
    retention: Retention
    now_ms: int
    ended: set[str] = field(default_factory=set)
    appended: dict[str, Appended] = field(default_factory=dict)
    withdrawn: dict[str, Appended] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    def apply(self, records: Sequence[Recordable]) -> Recorded:
        """See `Store.record`."""
        for record in records:
            if isinstance(record, Deleted):
                self._deleted(record)
            elif isinstance(record, Screening):
                self._screening(record)
            elif isinstance(record, Accepted):
                self._accepted(record)
            else:
                self._terminal(record)
        appended, withdrawn = tuple(self.appended.values()), tuple(self.withdrawn.values())
        return Recorded(frozenset(self.ended), appended, withdrawn, frozenset(self.forgotten))

    def _screening(self, record: Screening) -> None:
        until_ms = self.retention.tombstone_until(self.now_ms)
        self.connection.execute(_SCREENING, {"id": record.response_id, "epoch": record.epoch, "expires_at": until_ms})

    def _accepted(self, record: Accepted) -> None:
        spec = record.spec
        if not spec.store and spec.conversation is None:
            return
        kept = not conversations.is_deleted(self.connection, record.tenant, spec.conversation)
        values = {
            "id": record.response_id,
            "epoch": record.epoch,
            "tenant": record.tenant,
            "conversation": spec.conversation,
            "parent": spec.previous_response_id if kept else None,
            "accepted": encode_value(record) if kept else None,
            "expires_at": self.retention.response_until(record.deadline_ms),
        }
        if self.connection.execute(_ACCEPTED, values).rowcount == 0:
            self.connection.execute(_RAISE_EPOCH, values)

    def _terminal(self, record: AnyTerminal) -> None:
        row = _row(self.connection, record.response_id)
        if row is None or row.phase == Phase.UNKNOWN:
            return
        if row.phase == Phase.BEGUN:
            if record.epoch < row.epoch:
                return
            self._end(row, record)
        if row.conversation is not None or row.phase == Phase.DELETED:
            self._settle(row, record.response_id)

    def _end(self, row: _Row, record: AnyTerminal) -> None:
        accepted = _accepted(row.accepted) if row.conversation is not None else None
        if accepted is not None and row.conversation is not None:
            conversations.append(self.connection, accepted.tenant, row.conversation, turn_items(accepted, record))
        kept = row.accepted is not None and (accepted is None or accepted.spec.store)
        values = {
            "id": record.response_id,
            "epoch": record.epoch,
            "terminal": encode_value(record),
            "expires_at": self.retention.response_until(record.finished_ms),
        }
        self.connection.execute(_END if kept else _END_UNKEPT, values)
        if kept:
            self.ended.add(record.response_id)

    def _settle(self, row: _Row, response_id: str) -> None:
        """Give the lock back, and tell what came of the end; of one that came before too."""
        if row.tenant is None:
            return
        conversations.release_all(self.connection, row.tenant, response_id)
        if row.phase == Phase.DELETED or row.conversation is None:
            return
        if conversations.is_deleted(self.connection, row.tenant, row.conversation):
            self.forgotten.add(response_id)
        elif item_ids := conversations.brought(self.connection, row.tenant, row.conversation, response_id):
            self.appended[response_id] = Appended(row.conversation, row.tenant, response_id, item_ids)

    def _deleted(self, record: Deleted) -> None:
        until_ms = self.retention.tombstone_until(self.now_ms)
        if delete(self.connection, record.response_id, record.tenant, until_ms):
            conversations.withdraw(self.connection, record.tenant, record.response_id, until_ms)
        went = conversations.withdrawn(self.connection, record.tenant, record.response_id)
        if went is not None:
            self.withdrawn[record.response_id] = went


def delete(connection: sqlite3.Connection, response_id: str, tenant: str, until_ms: int) -> bool:
    """Leave a tombstone of the response until then. False if there is one, or if the response is somebody else's."""
    values = {"id": response_id, "tenant": tenant, "expires_at": until_ms}
    return connection.execute(_DELETE, values).rowcount == 1


def erase_of(connection: sqlite3.Connection, tenant: str, conversation_id: str) -> list[str]:
    """Erase what was said in all responses that ran in the conversation; the ids of those that are over, in order."""
    values = {"tenant": tenant, "conversation": conversation_id}
    connection.execute(_ERASE_OF, values)
    return [response_id for (response_id,) in connection.execute(_OVER_OF, values)]


def get(connection: sqlite3.Connection, tenant: str, response_id: str) -> StoredResponse | None:
    """See `Store.get`."""
    found = connection.execute(_GET, {"id": response_id, "tenant": tenant}).fetchone()
    return None if found is None else _stored(found)


def chain(connection: sqlite3.Connection, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
    """See `Store.chain`."""
    found = connection.execute(_CHAIN, {"id": response_id, "tenant": tenant, "limit": limit})
    return [_stored(row) for row in found]


def _row(connection: sqlite3.Connection, response_id: str) -> _Row | None:
    found = connection.execute(_ROW, {"id": response_id}).fetchone()
    return None if found is None else _Row(Phase(found[0]), *found[1:])


def _accepted(blob: bytes | None) -> Accepted | None:
    return None if blob is None else EVENTS.decoder.decode(blob)


def _stored(row: tuple[bytes, bytes]) -> StoredResponse:
    accepted, terminal = (EVENTS.decoder.decode(blob) for blob in row)
    return StoredResponse(accepted, terminal)
