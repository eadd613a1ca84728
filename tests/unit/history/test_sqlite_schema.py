"""How the SQLite file of one release becomes the next one's, and by which ways its statements find their rows."""

import re
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from services.history.stores.port import Recorded, Retention, StoredResponse
from services.history.stores.sqlite import MIGRATIONS, SqliteStore, conversations, responses, sweep
from shared.records import Deleted
from shared.records.codec import encode_value
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, accepted, an_id, completed

DAY_MS = 24 * 3600 * 1000
RETENTION = Retention(response_ms=7 * DAY_MS, tombstone_ms=9 * DAY_MS)

# As the release before conversations created and wrote the file, word for word.
_FIRST_RELEASE = (
    "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)",
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
    "INSERT INTO schema_migrations VALUES (1, 0)",
)
_FIRST_ACCEPTED = """
    INSERT INTO responses (id, epoch, tenant, parent, accepted) VALUES (:id, :epoch, :tenant, :parent, :accepted)
"""
_FIRST_TERMINAL = "UPDATE responses SET terminal = :terminal, epoch = :epoch WHERE id = :id"
_FIRST_SCREENING = "INSERT INTO responses (id, epoch) VALUES (:id, :epoch)"
_FIRST_DELETED = "INSERT INTO responses (id, deleted) VALUES (:id, 1)"


class Old:
    """A file of the first release: a chain of two, one that runs, one with a mark only, one deleted."""

    def __init__(self, file: Path) -> None:
        self.first, self.second, self.runs, self.marked, self.deleted = (an_id() for _ in range(5))
        self.told = {
            self.first: [accepted(self.first, text="gęślą\0"), completed(self.first, "a1")],
            self.second: [accepted(self.second, previous_response_id=self.first, epoch=3)],
            self.runs: [accepted(self.runs)],
        }
        self.told[self.second].append(completed(self.second, "a2", epoch=3))
        with sqlite3.connect(file) as connection:
            for statement in _FIRST_RELEASE:
                connection.execute(statement)
            for records in self.told.values():
                self._write(connection, records)
            connection.execute(_FIRST_SCREENING, {"id": self.marked, "epoch": 5})
            connection.execute(_FIRST_DELETED, {"id": self.deleted})
        connection.close()

    @staticmethod
    def _write(connection: sqlite3.Connection, records: list[Any]) -> None:
        begun = records[0]
        parent = begun.spec.previous_response_id
        values = {"id": begun.response_id, "epoch": begun.epoch, "tenant": TENANT, "parent": parent}
        connection.execute(_FIRST_ACCEPTED, values | {"accepted": encode_value(begun)})
        for end in records[1:]:
            connection.execute(_FIRST_TERMINAL, values | {"terminal": encode_value(end)})


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "h.sqlite3")


async def opened(tmp_path: Path, retention: Retention = RETENTION) -> SqliteStore:
    store = SqliteStore(tmp_path / "h.sqlite3", retention=retention, clock_ms=lambda: NOW_MS)
    await store.open()
    return store


async def test_a_file_of_the_first_release_is_read_on(old: Old, tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert await store.get(TENANT, old.first) == StoredResponse(*old.told[old.first])
    assert await store.chain(TENANT, old.second, 5) == [
        StoredResponse(*old.told[response_id]) for response_id in (old.first, old.second)
    ]
    assert await store.get(TENANT, old.runs) is None
    await store.close()


async def test_what_the_first_release_began_goes_on_by_the_same_rules(old: Old, tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert (await store.record([completed(old.first, "other"), completed(old.runs)])).ended == {old.runs}
    zombie = [accepted(old.marked, epoch=4), completed(old.marked, epoch=4)]
    assert await store.record(zombie) == Recorded()
    late = [accepted(old.deleted), completed(old.deleted), Deleted(response_id=old.deleted, tenant=TENANT)]
    assert await store.record(late) == Recorded()
    assert await store.get(TENANT, old.deleted) is None
    await store.close()


async def test_what_the_first_release_kept_for_ever_expires(old: Old, tmp_path: Path) -> None:
    store = await opened(tmp_path)
    ended_ms = NOW_MS + 5 + 7 * DAY_MS
    assert await store.forget_expired(ended_ms - 1, 10) == 0
    assert await store.forget_expired(ended_ms, 10) == 2
    assert await store.forget_expired(FAR_MS + 7 * DAY_MS, 10) == 1, "the one that runs"
    assert await store.forget_expired(NOW_MS + 9 * DAY_MS, 10) == 2, "the mark and the tombstone"
    await store.close()


async def test_a_file_of_the_first_release_may_be_kept_for_ever(old: Old, tmp_path: Path) -> None:
    store = await opened(tmp_path, Retention(response_ms=None))
    await store.forget_expired(1 << 60, 10)
    assert len(await store.chain(TENANT, old.second, 5)) == 2
    await store.close()


async def test_a_migration_that_is_cut_short_leaves_the_old_file(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.history.stores.sqlite.schema.MIGRATIONS", (*MIGRATIONS, ("this is no statement",)))
    broken = SqliteStore(tmp_path / "h.sqlite3", retention=RETENTION)
    with pytest.raises(Exception, match="syntax error"):
        await broken.open()
    await broken.close()
    with sqlite3.connect(tmp_path / "h.sqlite3") as connection:
        assert connection.execute("SELECT max(version) FROM schema_migrations").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM responses WHERE deleted").fetchone() == (1,)
    connection.close()
    monkeypatch.undo()
    store = await opened(tmp_path)
    assert len(await store.chain(TENANT, old.second, 5)) == 2
    await store.close()


def _statements(module: ModuleType) -> list[str]:
    found: list[str] = []
    for name, value in vars(module).items():
        if name.isupper():
            values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            found += [v for v in values if isinstance(v, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", v)]
    return found


STATEMENTS = [statement for module in (responses, conversations, sweep) for statement in _statements(module)]


@pytest.fixture
async def plans(tmp_path: Path) -> sqlite3.Connection:
    """A connection to an empty file: without statistics the plan is the same for any size."""
    store = await opened(tmp_path)
    await store.close()
    return sqlite3.connect(tmp_path / "h.sqlite3")


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    names = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", names)]


def test_the_statements_are_found() -> None:
    assert len(STATEMENTS) > 30
    assert any("FROM items" in s and "ORDER BY place" in s for s in STATEMENTS)


async def test_no_statement_reads_a_table_from_end_to_end(plans: sqlite3.Connection) -> None:
    scans = {
        statement: step
        for statement in STATEMENTS
        for step in plan(plans, statement)
        if re.match(r"SCAN (responses|conversations|items|erased_items|r|c|i)\b", step)
    }
    assert scans == {}
    assert plan(plans, "SELECT * FROM items WHERE item = :item") == ["SCAN items"], "the test sees scans"
    plans.close()


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_is_read_off_its_index_without_sorting(order: str, plans: sqlite3.Connection) -> None:
    (step,) = plan(plans, conversations.PAGE[order])
    assert re.fullmatch(r"SEARCH items USING INDEX items_in_order \(conversation=\? AND place[<>]\?\)", step)
    plans.close()
