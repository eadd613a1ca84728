"""History while its replicas die, pause and leave, and while its store cannot be written."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.brokers import Broker
from shared.folds import JournalFold
from shared.folds.journal import Effect
from shared.ids import new_id, now_ms
from shared.log import decode
from shared.log.writer import partition_of_key
from shared.records import (
    ContextRequested,
    ConversationFound,
    CreateConversation,
    DeadLetter,
    Rejected,
    Requested,
    ResponseFound,
    Screening,
    UpdateConversation,
)
from shared.topics import CONTEXT, DEAD_LETTERS, EVENTS, HISTORY_QUERIES, RECORDERS, Service, Topic
from tests.support.history import Answer, HistoryProbe, a_query, about, locked
from tests.support.logs import raw_records
from tests.support.mesh import Mesh, Replica
from tests.unit.history.fakes import TENANT, accepted, an_id, asked, completed, delta, turn

PARTITIONS = 4
BOUND_S = 25.0
"""For a change of hands, of which the embedded broker makes several seconds (CONTRIBUTING.md), on a busy machine."""


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Two replicas of history over one file, nothing else. Who waits for a parent waits longer than a test does."""
    env = {"CHATMESH_PARENT_WAIT_S": "60"}
    async with Mesh(broker, tmp_path_factory.mktemp("history"), env=env, counts={Service.HISTORY: 2}) as made:
        yield made


@pytest.fixture
async def probe(mesh: Mesh) -> AsyncIterator[HistoryProbe]:
    """A test that failed may have left replicas dead: that is not the next one's business."""
    dead = [replica for replica in mesh.of(Service.HISTORY) if not replica.process.running]
    for replica in dead:
        mesh.retire(replica)
    for _ in range(2 - len(mesh.of(Service.HISTORY))):
        mesh.add(Service.HISTORY)
    await mesh.wait_ready()
    async with HistoryProbe(mesh.settings, mesh.folder / "data" / "history.sqlite3") as made:
        yield made


async def heal(mesh: Mesh, gone: Replica) -> None:
    """Another replica instead of one that ended."""
    mesh.retire(gone)
    mesh.add(Service.HISTORY)
    await mesh.wait_ready()


def spread(count: int) -> list[str]:
    return [an_id(n % PARTITIONS) for n in range(count)]


async def stop_all(mesh: Mesh, how: signal.Signals) -> None:
    if not mesh.broker.capabilities.restarts_groups:
        pytest.skip("a group does not always start anew there")
    for replica in mesh.of(Service.HISTORY):
        replica.process.signal(how)
    for replica in mesh.of(Service.HISTORY):
        assert await asyncio.to_thread(replica.process.wait, 15)
        mesh.retire(replica)


async def start_two(mesh: Mesh) -> None:
    for _ in range(2):
        mesh.add(Service.HISTORY)
    await mesh.wait_ready()


async def everyone_took(probe: HistoryProbe) -> None:
    """Ask one more question in every partition: its answer shows that what was asked before is being handled."""
    parents: dict[int, str] = {}
    while len(parents) < PARTITIONS:
        parent = an_id()
        parents[partition_of_key(parent, PARTITIONS)] = parent
    await probe.tell(*(record for parent in parents.values() for record in turn(parent, "q", "a")))
    markers = [asked(parent) for parent in parents.values()]
    await probe.ask(*markers)
    for marker in markers:
        await probe.answer(marker)


async def until_answered_twice(probe: HistoryProbe, requests: list[ContextRequested]) -> None:
    async with asyncio.timeout(20):
        while not any(len(probe.answers[r.request.response_id]) > 1 for r in requests):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda how: how.name)
async def test_every_request_is_answered_though_a_replica_goes(
    mesh: Mesh, probe: HistoryProbe, broker: Broker, how: signal.Signals
) -> None:
    """Half of the requests wait for a parent that still speaks: they are in the victim's hands when it goes."""
    ended, speaking = spread(20), spread(20)
    await probe.tell(*(record for parent in ended for record in turn(parent, "q", "a")))
    await probe.tell(*(accepted(parent, text="q") for parent in speaking))
    victim = mesh.of(Service.HISTORY)[0]
    waiting, quick = [asked(parent) for parent in speaking], [asked(parent) for parent in ended]
    await probe.ask(*waiting)
    await everyone_took(probe)
    victim.process.signal(how)
    struck_s = time.monotonic()
    await probe.ask(*quick)
    for request in quick:
        assert isinstance(await probe.answer(request, BOUND_S), Requested)
    answered_s = time.monotonic() - struck_s
    await probe.tell(*(completed(parent, "a") for parent in speaking))
    for request in waiting:
        assert isinstance(await probe.answer(request, BOUND_S), Requested)
    print(f"\n{broker.name} {how.name}: requests answered within {answered_s:.2f} s")
    if how is signal.SIGSTOP:
        victim.process.signal(signal.SIGCONT)
        await until_answered_twice(probe, waiting)
    else:
        assert await asyncio.to_thread(victim.process.wait, 15)
        assert victim.process.exit_code == (-signal.SIGKILL if how is signal.SIGKILL else 0)
        await heal(mesh, victim)
    for request in [*quick, *waiting]:
        counts_once(probe.answers[request.request.response_id])


def counts_once(answers: list[Answer]) -> None:
    """However often history answered: the journal's fold takes one, and all say the same."""
    fold = JournalFold()
    effects = [fold.apply(answer) for answer in answers if isinstance(answer, Requested)]
    assert effects.count(Effect.REQUESTED) == 1
    assert answers == [answers[0]] * len(answers)


async def rewind(mesh: Mesh, probe: HistoryProbe, how: signal.Signals) -> None:
    """End all replicas, move the recorder's group to the beginning of the log, start two others."""
    await stop_all(mesh, how)
    await probe.rewind(RECORDERS.name, EVENTS)
    await start_two(mesh)


async def test_events_that_come_twice_are_stored_once(mesh: Mesh, probe: HistoryProbe) -> None:
    told = {response_id: turn(response_id, "q", f"a {response_id}") for response_id in spread(20)}
    await probe.tell(*(record for records in told.values() for record in records))
    await probe.until_stored(TENANT, told)
    await rewind(mesh, probe, signal.SIGTERM)
    last = an_id()
    await probe.tell(*turn(last, "q", "a"))
    await probe.until_stored(TENANT, [last])
    kept = await probe.stored(TENANT, told)
    assert {i: [r.accepted, r.terminal] for i, r in kept.items()} == told


async def test_kill_9_in_the_middle_of_recording_loses_and_doubles_nothing(mesh: Mesh, probe: HistoryProbe) -> None:
    told = {response_id: turn(response_id, "q", "a" * 500) for response_id in spread(400)}
    records = [record for pair in told.values() for record in pair]
    half = len(records) // 2 + 1  # the last response of the first half has begun and not ended
    await probe.tell(*records[:half])
    await probe.until_stored(TENANT, list(told)[: half // 2])
    async with locked(probe.sqlite_file):
        await probe.tell(*records[half:])
        await until_all_said(mesh, "recorder waits")
        await stop_all(mesh, signal.SIGKILL)
    assert len(await probe.stored(TENANT, told)) == half // 2
    await start_two(mesh)
    await probe.until_stored(TENANT, told)
    kept = await probe.stored(TENANT, told)
    assert {i: [r.accepted, r.terminal] for i, r in kept.items()} == told


async def test_a_superseded_owners_late_end_is_not_stored(mesh: Mesh, probe: HistoryProbe) -> None:
    """Also not by a recorder that begins behind `accepted`, nor by one that begins behind `screening`."""
    response_id = an_id()
    zombie, real = completed(response_id, "zombie", epoch=3), completed(response_id, "told", epoch=8)
    await probe.tell(accepted(response_id, epoch=3), delta(response_id, "to"))
    await rolled_on(mesh, probe)
    await probe.tell(Screening(response_id=response_id, epoch=8, owner="b"))
    await rolled_on(mesh, probe)
    await probe.tell(zombie, real, zombie)
    await probe.until_stored(TENANT, [response_id])
    assert (await probe.stored(TENANT, [response_id]))[response_id].terminal == real
    request = asked(response_id)
    await probe.ask(request)
    answer = await probe.answer(request)
    assert isinstance(answer, Requested)
    assert [m.text for m in answer.context][-1] == "told"


async def rolled_on(mesh: Mesh, probe: HistoryProbe) -> None:
    """What was told is recorded and committed, and other replicas go on behind it."""
    markers = spread(PARTITIONS)
    await probe.tell(*(record for marker in markers for record in turn(marker, "q", "a")))
    await probe.until_stored(TENANT, markers)
    await stop_all(mesh, signal.SIGTERM)
    await start_two(mesh)


@pytest.mark.parametrize("topic", [EVENTS, CONTEXT, HISTORY_QUERIES], ids=lambda topic: topic.name)
async def test_what_cannot_be_read_goes_aside_and_blocks_nothing(probe: HistoryProbe, topic: Topic) -> None:
    response_id = an_id()
    partition = 3 if topic is EVENTS else partition_of_key(response_id, PARTITIONS)
    offset = await probe.put(topic, partition, b"who", b"{no record of ours")
    await probe.tell(*turn(response_id, "q", "a"))
    await probe.until_stored(TENANT, [response_id])
    query, request = a_query(response_id), asked(response_id)
    await probe.ask(query, request)
    assert isinstance(await probe.answer(query), ResponseFound)
    assert isinstance(await probe.answer(request), Requested)
    letter = await probe.buried(topic, offset, partition)
    assert (letter.service, letter.value, letter.attempts) == ("history", "{no record of ours", 1)
    assert "Error" in letter.error


async def test_a_query_finds_only_ones_own(probe: HistoryProbe) -> None:
    mine, foreign = an_id(), an_id()
    await probe.tell(*turn(mine, "q", "a"), *turn(foreign, "q", "secret", tenant="other"))
    await probe.until_stored(TENANT, [mine])
    for response_id, found in [(mine, True), (foreign, False), (an_id(), False)]:
        query = a_query(response_id)
        await probe.ask(query)
        answer = await probe.answer(query)
        assert isinstance(answer, ResponseFound if found else Rejected)
        if isinstance(answer, Rejected):
            assert answer.status == 404


@asynccontextmanager
async def full_disk(mesh: Mesh) -> AsyncIterator[None]:
    """No replica can write another byte to the store: every file of theirs may only be as long as it is now."""
    size = (mesh.folder / "data" / "history.sqlite3-wal").stat().st_size
    pids = [replica.process.pid for replica in mesh.of(Service.HISTORY)]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)) for pid in pids}
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("trouble", ["locked", "full"])
async def test_a_store_that_cannot_be_written_for_a_while_loses_nothing(
    mesh: Mesh, probe: HistoryProbe, trouble: str
) -> None:
    """Nothing is skipped, each replica says so, context still comes from the log, and all is stored afterwards."""
    told = {response_id: turn(response_id, "q", "a") for response_id in spread(40)}
    async with locked(probe.sqlite_file) if trouble == "locked" else full_disk(mesh):
        await probe.tell(*(record for records in told.values() for record in records))
        requests = [asked(response_id) for response_id in told]
        await probe.ask(*requests)
        for request in requests:
            assert isinstance(await probe.answer(request), Requested)
        await until_all_said(mesh, "recorder waits")
        assert await probe.stored(TENANT, told) == {}
    await probe.until_stored(TENANT, told, 30)
    assert all(replica.process.running for replica in mesh.of(Service.HISTORY))


async def letters(mesh: Mesh, topic: Topic) -> list[DeadLetter]:
    """Those that had to be shortened."""
    queue = DEAD_LETTERS[topic.name]
    found = [decode(queue, record).record for record in await raw_records(mesh, queue)]
    return [letter for letter in found if isinstance(letter, DeadLetter) and letter.shortened]


@pytest.mark.any_broker
@pytest.mark.parametrize("topic", [CONTEXT, EVENTS])
async def test_what_is_too_long_for_a_dead_letter_ends_nobody(mesh: Mesh, probe: HistoryProbe, topic: Topic) -> None:
    """A letter quotes its record, and here quotes take twice as much: only the beginning fits another record."""
    offset = await probe.put(topic, 1, b"who", b'"' * 3_000_000)
    async with asyncio.timeout(20):
        while not any(letter.origin_offset == offset for letter in await letters(mesh, topic)):
            await asyncio.sleep(0.2)
    query = a_query(an_id())
    await probe.ask(query)
    assert isinstance(await probe.answer(query), Rejected)
    assert all(replica.process.running for replica in mesh.of(Service.HISTORY))


@pytest.mark.any_broker
async def test_while_the_store_does_not_answer_who_needs_it_hears_so_and_the_others_go_on(
    mesh: Mesh, probe: HistoryProbe
) -> None:
    parent, conversation = an_id(), new_id("conv")
    await probe.tell(*turn(parent, "q", "a"))
    await probe.until_stored(TENANT, [parent])
    create = about(CreateConversation, conversation, created_ms=now_ms())
    await probe.ask(create)
    assert isinstance(await probe.answer(create), ConversationFound)
    update = about(UpdateConversation, conversation, metadata={"k": "v"})
    needs_it = asked(None, conversation=conversation, created_ms=now_ms(), deadline_ms=now_ms() + 2_000)
    does_not = asked(parent)
    async with locked(probe.sqlite_file):
        await probe.ask(update, needs_it, does_not)
        assert isinstance(await probe.answer(does_not), Requested)
        for each in (update, needs_it):
            answer = await probe.answer(each)
            assert isinstance(answer, Rejected)
            assert answer.status == 503
            assert "The store of past responses and conversations" in answer.message
    again = asked(None, conversation=conversation)
    await probe.ask(again)
    assert isinstance(await probe.answer(again), Requested)


async def until_all_said(mesh: Mesh, words: str) -> None:
    async with asyncio.timeout(30):
        while not all(words in replica.process.log_text() for replica in mesh.of(Service.HISTORY)):
            await asyncio.sleep(0.05)


async def test_a_store_that_is_locked_at_the_start_is_waited_for(mesh: Mesh, probe: HistoryProbe) -> None:
    await stop_all(mesh, signal.SIGTERM)
    async with locked(probe.sqlite_file):
        for _ in range(2):
            mesh.add(Service.HISTORY)
        await until_all_said(mesh, "store waits")
    await mesh.wait_ready()
    response_id = an_id()
    await probe.tell(*turn(response_id, "q", "a"))
    await probe.until_stored(TENANT, [response_id])


async def test_what_the_log_forgot_comes_from_the_store(mesh: Mesh, probe: HistoryProbe, broker: Broker) -> None:
    if not broker.capabilities.persistent:
        pytest.skip("this broker never deletes a record")
    kept, lost = an_id(1), an_id(1)
    await probe.tell(*turn(kept, "q", "a"), accepted(lost))
    await probe.until_stored(TENANT, [kept])
    await probe.forget(EVENTS)
    found, missing = a_query(kept), a_query(lost)
    request, refused = asked(kept), asked(lost)
    await probe.ask(found, missing, request, refused)
    assert isinstance(await probe.answer(found), ResponseFound)
    assert isinstance(await probe.answer(request), Requested)
    for each, code in [(missing, "response_not_found"), (refused, "previous_response_not_found")]:
        answer = await probe.answer(each)
        assert isinstance(answer, Rejected)
        assert answer.code == code
