"""`make dlq` on a history that cannot store a record for a while: what it put aside is found, sent back and stored."""

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pexpect
import pytest

from deploy.brokers import Broker
from deploy.terminal.dlq.letters import REDRIVEN_HEADER
from shared.log.writer import partition_of_key
from shared.topics import DEAD_LETTERS, EVENTS, HISTORY_QUERIES, Service
from tests.support.history import HistoryProbe, a_query
from tests.support.logs import raw_records
from tests.support.mesh import ROOT, Mesh
from tests.unit.history.fakes import TENANT, an_id, turn

pytestmark = pytest.mark.any_broker

PARTITIONS = 4
SECRET = "what the user wrote"


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(broker, tmp_path_factory.mktemp("dlq"), counts={Service.HISTORY: 1}) as made:
        yield made


@pytest.fixture
async def probe(mesh: Mesh) -> AsyncIterator[HistoryProbe]:
    async with HistoryProbe(mesh.settings, mesh.folder / "data" / "history.sqlite3") as made:
        yield made


@contextlib.contextmanager
def refusing(probe: HistoryProbe, text: str) -> Iterator[None]:
    """The store takes no response whose end says `text`."""
    with sqlite3.connect(probe.sqlite_file, timeout=10) as file:
        file.execute(
            "CREATE TRIGGER refusing BEFORE UPDATE ON responses "
            f"WHEN instr(CAST(NEW.terminal AS TEXT), '{text}') BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    try:
        yield
    finally:
        with sqlite3.connect(probe.sqlite_file, timeout=10) as file:
            file.execute("DROP TRIGGER refusing")


async def dlq(mesh: Mesh, *arguments: str, status: int = 0) -> str:
    """What the command prints, as an operator runs it beside the mesh."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.terminal.dlq", *arguments,
        cwd=ROOT, env=environment(mesh), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, out.decode()
    return out.decode()


def environment(mesh: Mesh) -> dict[str, str]:
    return {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap, "CHATMESH_NAMESPACE": mesh.namespace}


def agree_at_a_terminal(mesh: Mesh, place: str) -> None:
    """Refuse to send it back, then agree."""
    for answer, said, status in (("n", pexpect.EOF, 2), ("y", "sent back, now responses.events/3@", 0)):
        command = ["-m", "deploy.terminal.dlq", "redrive", place]
        child = pexpect.spawn(
            sys.executable, command, cwd=str(ROOT), env=environment(mesh), encoding="utf-8", timeout=30
        )
        child.expect_exact("send 1 record back? [y/N] ")
        child.sendline(answer)
        child.expect(said)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == status


async def told(mesh: Mesh, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await dlq(mesh, *arguments, "--json")).splitlines()]


async def test_an_end_that_the_store_refused_is_sent_back_and_stored(mesh: Mesh, probe: HistoryProbe) -> None:
    response_id = an_id()
    with refusing(probe, SECRET):
        await probe.tell(*turn(response_id, "q", SECRET))
        (end,) = [
            record
            for record in await raw_records(mesh, EVENTS)
            if record.key == response_id and record.kind == "completed"
        ]
        await probe.buried(EVENTS, end.offset, end.partition)
    assert not await probe.stored(TENANT, [response_id])

    (letter,) = await told(mesh, "list", EVENTS.name)
    origin = {"topic": EVENTS.name, "partition": end.partition, "offset": end.offset}
    assert (letter["origin"], letter["service"], letter["attempts"]) == (origin, "history", 3)
    assert (letter["record"], letter["key"], letter["state"]) == ("completed", response_id, "aside")
    assert "StoreRefusedError" in letter["error"]
    place = f"{EVENTS.name}/{end.partition}@{end.offset}"
    shown = await dlq(mesh, "show", place)
    assert "redrive      yes" in shown and SECRET not in shown
    assert SECRET in await dlq(mesh, "show", place, "--content")

    assert "goes back to responses.events" in await dlq(mesh, "redrive", place, "--dry-run")
    assert "say --yes" in await dlq(mesh, "redrive", place, status=2)
    assert len(await raw_records(mesh, EVENTS)) == 2  # nothing was sent so far
    await asyncio.to_thread(agree_at_a_terminal, mesh, place)
    await probe.until_stored(TENANT, [response_id])
    (_, first, again) = await raw_records(mesh, EVENTS)
    assert (again.partition, again.key, again.value) == (first.partition, first.key, first.value)
    assert dict(again.headers) == {**dict(first.headers), REDRIVEN_HEADER: b"1"}

    assert (await told(mesh, "show", place))[0]["state"] == "sent back"
    assert "it was sent back already" in await dlq(mesh, "redrive", place, "--yes", status=1)
    assert "for the 2. time" in await dlq(mesh, "redrive", place, "--yes", "--again")


async def test_what_cannot_be_meant_stays(mesh: Mesh, probe: HistoryProbe) -> None:
    query = a_query(an_id())
    partition = partition_of_key(query.response_id, PARTITIONS)
    offset = await probe.put(HISTORY_QUERIES, partition, b"who", b"\x1b[31m{no record of ours")
    await probe.buried(HISTORY_QUERIES, offset, partition)
    said = await dlq(mesh, "redrive", HISTORY_QUERIES.name, "--yes")
    assert "stays, this release cannot read it either" in said
    await probe.put(DEAD_LETTERS[HISTORY_QUERIES.name], 0, b"who", b"{no letter of ours")
    shown = await dlq(mesh, "show", f"{HISTORY_QUERIES.name}@0", "--content")
    assert "leaves out what it cannot read at history.queries.dlq@1" in shown
    assert "\\x1b[31m{no record of ours" in shown and "\x1b" not in shown
    assert "no dead letter history.queries@9" in await dlq(mesh, "show", f"{HISTORY_QUERIES.name}@9", status=1)
