"""What the SQLite file survives and what it refuses."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.port import Conversation, ItemPage
from services.history.stores.sqlite import MIGRATIONS, SqliteStore, switch_to_wal
from shared.records import Deleted, Item
from tests.unit.history.fakes import NOW_MS, TENANT, accepted, an_id, completed, turn

_WRITER = """
import asyncio, pathlib, sys
from services.history.stores.sqlite import SqliteStore
from tests.unit.history.fakes import an_id, turn

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    while True:
        pair = [an_id(), an_id()]
        await store.record([record for r in pair for record in turn(r, "q", "a" * 2000)])
        print(*pair, flush=True)

asyncio.run(main())
"""

_SPEAKER = """
import asyncio, pathlib, sys
from services.history.stores.port import Conversation, Holder
from services.history.stores.sqlite import SqliteStore
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, an_id, turn

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    await store.create_conversation(Conversation("conv_a", TENANT, NOW_MS), [])
    while True:
        response_id = an_id()
        await store.lock(TENANT, "conv_a", Holder(response_id, FAR_MS))
        print("locked", response_id, flush=True)
        await store.record(turn(response_id, "q " + response_id, "a" * 2000, conversation="conv_a"))
        print("ended", response_id, flush=True)

asyncio.run(main())
"""


def _write_until_killed(program: str, file: Path) -> list[list[str]]:
    """What the program said that it did, word by word."""
    with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline().split() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        return said + [line.split() for line in writer.stdout if len(line.split()) == 2]


async def test_a_batch_is_there_whole_or_not_at_all_after_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    pairs = await asyncio.to_thread(_write_until_killed, _WRITER, file)
    store = SqliteStore(file)
    await store.open()
    for response_id in (response_id for pair in pairs for response_id in pair):
        assert await store.get(TENANT, response_id) is not None, "acknowledged, then lost"
    await store.close()
    with sqlite3.connect(file) as connection:
        (count,) = connection.execute("SELECT count(*) FROM responses WHERE terminal IS NOT NULL").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert count % 2 == 0
    assert count >= 2 * len(pairs)


async def test_turns_and_the_lock_agree_after_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    said = await asyncio.to_thread(_write_until_killed, _SPEAKER, file)
    ended = [response_id for what, response_id in said if what == "ended"]
    store = SqliteStore(file)
    await store.open()
    page = await store.items(TENANT, "conv_a", limit=10_000, order="asc")
    found = await store.conversation(TENANT, "conv_a")
    assert isinstance(page, ItemPage) and found is not None
    there = [item.response_id for item in page.items]
    assert there[0::2] == there[1::2], "half a turn"
    assert there[: 2 * len(ended) : 2] == ended, "acknowledged, then lost, or out of order"
    assert len(there) // 2 - len(ended) in (0, 1)
    # The last one either ended, and holds nothing, or it holds the lock, and nothing of it is there.
    assert found.holder is None or found.holder.response_id not in there
    await store.close()


async def test_replicas_that_open_a_new_file_in_the_same_moment_all_get_it(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "h.sqlite3") for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))


class BusyConnection:
    """Fails as two connections do that switch to WAL in the same moment: at once, whatever their busy timeout."""

    def __init__(self, failures: int, errorcode: int) -> None:
        self.failures = failures
        self.errorcode = errorcode
        self.statements: list[str] = []

    def execute(self, statement: str) -> None:
        self.statements.append(statement)
        if len(self.statements) <= self.failures:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.errorcode
            raise error


@pytest.mark.parametrize("errorcode", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_the_switch_to_wal_is_tried_again_while_another_replica_switches(errorcode: int) -> None:
    connection: Any = BusyConnection(3, errorcode)
    switch_to_wal(connection, timeout_s=5)
    assert connection.statements == ["PRAGMA journal_mode=WAL"] * 4


@pytest.mark.parametrize(("errorcode", "timeout_s"), [(sqlite3.SQLITE_BUSY, 0.02), (sqlite3.SQLITE_FULL, 5.0)])
def test_the_switch_to_wal_is_given_up_after_its_time_or_for_another_reason(errorcode: int, timeout_s: float) -> None:
    connection: Any = BusyConnection(1_000, errorcode)
    with pytest.raises(sqlite3.OperationalError):
        switch_to_wal(connection, timeout_s)
    assert len(connection.statements) == 1 if errorcode == sqlite3.SQLITE_FULL else len(connection.statements) > 1


async def test_a_file_that_others_hold_for_longer_than_the_timeout_is_not_available(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "h.sqlite3", isolation_level=None) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN EXCLUSIVE")
        store = SqliteStore(tmp_path / "h.sqlite3", busy_timeout_s=0.05)
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.open()
        holder.execute("COMMIT")
        await store.open()
        await store.close()
    holder.close()


async def test_two_replicas_share_the_file(tmp_path: Path) -> None:
    one, two = SqliteStore(tmp_path / "h.sqlite3"), SqliteStore(tmp_path / "h.sqlite3")
    await asyncio.gather(one.open(), two.open())
    ids = [an_id() for _ in range(40)]
    await asyncio.gather(*(store.record(turn(response_id, "q", "a")) for store in (one, two) for response_id in ids))
    assert [await two.get(TENANT, response_id) is not None for response_id in ids] == [True] * len(ids)
    await one.close()
    await two.close()


_TWIN = """
import asyncio, json, pathlib, random, sys
from services.history.stores.sqlite import SqliteStore
from tests.unit.history.fakes import turn

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]), busy_timeout_s=20)
    await store.open()
    ids, ended = json.loads(sys.stdin.readline()), []
    random.Random(sys.argv[2]).shuffle(ids)
    for response_id in ids:
        for record in turn(response_id, "q", "a" * 300):
            ended += (await store.record([record])).ended
    await store.close()
    print(json.dumps(ended))

asyncio.run(main())
"""


def _recorded_by_twins(file: Path, ids: list[list[str]]) -> list[list[str]]:
    """What each of several processes, which write at the same time, was told to have ended."""
    twins = [
        subprocess.Popen(
            [sys.executable, "-c", _TWIN, str(file), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(len(ids))
    ]
    for twin, mine in zip(twins, ids, strict=True):
        assert twin.stdin is not None
        twin.stdin.write(json.dumps(mine) + "\n")
        twin.stdin.flush()
    return [json.loads(twin.communicate(timeout=60)[0]) for twin in twins]


async def test_processes_that_write_at_once_lose_nothing_and_end_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    common, own = [an_id() for _ in range(60)], [[an_id() for _ in range(60)] for _ in range(2)]
    ended = await asyncio.to_thread(_recorded_by_twins, file, [common + mine for mine in own])
    assert sorted(ended[0] + ended[1]) == sorted(common + own[0] + own[1])
    assert {*own[0]} <= {*ended[0]} and {*own[1]} <= {*ended[1]}
    store = SqliteStore(file)
    await store.open()
    assert [i for i in [*common, *own[0], *own[1]] if await store.get(TENANT, i) is None] == []
    await store.close()


async def test_a_full_disk_is_unavailable_and_then_available_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    batch = turn(an_id(), "q", "a" * 100_000)
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count=1").fetchall())
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.record(batch)
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchall())
    assert (await store.record(batch)).ended == {batch[0].response_id}
    await store.close()


async def test_a_locked_file_is_unavailable_and_a_record_that_cannot_be_held_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    store = SqliteStore(file, busy_timeout_s=0.05)
    await store.open()
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.record([accepted(an_id())])
        other.execute("ROLLBACK")
    good, bad = an_id(), accepted(an_id(), epoch=1 << 70)
    with pytest.raises(StoreRefusedError):
        await store.record([*turn(good, "q", "a"), bad])
    assert await store.get(TENANT, good) is None, "half a batch was kept"
    assert (await store.record([accepted(good), completed(good)])).ended == {good}
    await store.close()


async def test_a_file_that_is_no_database_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    file.write_bytes(b"this is not a database, but long enough to be looked at" * 100)
    store = SqliteStore(file)
    with pytest.raises(StoreError, match="not a database") as caught:
        await store.open()
    assert not isinstance(caught.value, StoreUnavailableError)
    await store.close()


async def test_a_schema_of_a_later_release_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite3"
    store = SqliteStore(file)
    await store.open()
    await store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, 0)")
    store = SqliteStore(file)
    with pytest.raises(StoreError, match=f"version 99, this release knows {len(MIGRATIONS)}"):
        await store.open()
    await store.close()


async def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / "file" / "h.sqlite3")
    with pytest.raises(StoreError, match="CHATMESH_DATA_DIR"):
        await store.open()
    await store.close()


def _bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def _secret(number: int, size: int) -> str:
    return f"<secret {number:06d}>" + "x" * size


async def _with_secrets(store: SqliteStore, sizes: Sequence[int]) -> tuple[str, list[str]]:
    """A conversation with an item and a turn per size, all of which is secret, and the responses' ids."""
    conversation = Conversation("conv_a", TENANT, NOW_MS, {"about": _secret(999_999, 0)})
    await store.create_conversation(conversation, [])
    ids = [an_id() for _ in sizes]
    for number, (response_id, size) in enumerate(zip(ids, sizes, strict=True)):
        text = _secret(number, size)
        await store.add_items(TENANT, "conv_a", [Item(id=f"msg_{number}", role="user", parts=[text])])
        # The beginning first, so that the row grows under what surrounds it.
        begun, ended = turn(response_id, text, text, conversation="conv_a")
        await store.record([begun])
        await store.record([ended])
    return conversation.id, ids


# Around what fits a page of the file, and far more.
_SIZES = [0, 20, 300, 900, 2_000, 4_000, 5_000, 30_000] * 6


async def test_what_was_erased_stands_in_no_byte_of_any_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    conversation_id, ids = await _with_secrets(store, _SIZES)
    gone = range(0, len(ids), 3)
    for number in gone:
        await store.erase_item(TENANT, conversation_id, f"msg_{number}")
        await store.record([Deleted(response_id=ids[number], tenant=TENANT)])
    held = _bytes_of(tmp_path)
    assert [number for number in gone if _secret(number, 0).encode() in held] == []
    kept = [number for number in range(len(ids)) if number not in gone]
    assert [number for number in kept if _secret(number, 0).encode() not in held] == [], "the test sees what is there"
    await store.erase_conversation(TENANT, conversation_id)
    assert b"<secret" not in _bytes_of(tmp_path)
    await store.close()


async def test_what_expired_stands_in_no_byte_of_any_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    await store.record([record for number in range(50) for record in turn(an_id(), _secret(number, 500), "a")])
    assert b"<secret" in _bytes_of(tmp_path)
    assert [await store.forget_expired(1 << 60, 20) for _ in range(3)] == [20, 20, 10]
    assert b"<secret" not in _bytes_of(tmp_path)
    await store.close()


async def test_a_deleted_conversation_leaves_one_row_whatever_was_deleted_in_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    conversation_id, _ = await _with_secrets(store, [])
    await store.add_items(TENANT, conversation_id, [Item(id=i, role="user", parts=[]) for i in ("msg_a", "msg_b")])
    await store.erase_item(TENANT, conversation_id, "msg_a")
    await store.erase_conversation(TENANT, conversation_id)
    assert await store.forget_expired(1 << 60, 10) == 1
    await store.close()


async def test_what_was_erased_as_the_process_was_killed_is_gone_once_the_file_is_opened(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    conversation_id, _ = await _with_secrets(store, [10])
    await store._writer.run(lambda c: c.execute("DELETE FROM items").fetchall())
    await store._writer.run(lambda c: c.execute("DELETE FROM responses").fetchall())
    await store._writer.run(lambda c: c.execute("UPDATE conversations SET metadata = '{}'").fetchall())
    left = tmp_path / "left by kill -9"
    left.mkdir()
    for name in ("h.sqlite3", "h.sqlite3-wal"):
        (left / name).write_bytes((tmp_path / name).read_bytes())
    await store.close()
    assert b"<secret" in _bytes_of(left), "committed, but the write-ahead log still has it"
    store = SqliteStore(left / "h.sqlite3")
    await store.open()
    assert b"<secret" not in _bytes_of(left)
    assert await store.conversation(TENANT, conversation_id) is not None
    await store.close()


async def test_a_reader_that_is_in_the_way_delays_the_erasure_of_bytes_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3", busy_timeout_s=0.05)
    await store.open()
    conversation_id, _ = await _with_secrets(store, [10])
    with sqlite3.connect(tmp_path / "h.sqlite3", isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM items").fetchall()
        assert await store.erase_conversation(TENANT, conversation_id) is not None
        assert await store.conversation(TENANT, conversation_id) is None
        assert b"<secret" in _bytes_of(tmp_path)
        reader.execute("COMMIT")
        await store.forget_expired(0, 1)
        assert b"<secret" not in _bytes_of(tmp_path)
    reader.close()
    await store.close()


async def test_a_file_that_lacks_a_table_is_unusable_not_unavailable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite3")
    await store.open()
    await store._writer.run(lambda connection: connection.execute("DROP TABLE items").fetchall())
    with pytest.raises(StoreError, match="no such table") as caught:
        await store.item(TENANT, (await _with_secrets(store, []))[0], "msg_0")
    assert not isinstance(caught.value, StoreUnavailableError)
    await store.close()
