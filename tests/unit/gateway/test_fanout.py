"""Followers and streams over a log in memory: home moves, joining in the middle, release, bounds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from services.gateway import app
from services.gateway.fanout import Fanout, Lease, Stream
from services.gateway.fanout import follower as follower_module
from services.gateway.fanout.follower import Follower
from services.gateway.projections import RESPONSES, ClientEvent, ResponsesProjection
from shared.errors import BrokerUnavailableError, LogError, RecordError, UnknownRecordError
from shared.ids import new_response_id
from shared.log import RawRecord
from shared.records.codec import encode_value
from shared.topics import Service
from tests.support.fakes import MemoryLog, MemoryWriter, settle
from tests.support.traces import is_traced, traced
from tests.unit.gateway.fakes import FakeLog, FakePresence, FakeTail
from tests.unit.gateway.logs import Log

PARTITIONS = 8


class Setup:
    def __init__(self, buffer_bytes: int = 1 << 20) -> None:
        self.log = FakeLog()
        self.presence = FakePresence()
        self.put_aside: list[tuple[RawRecord, RecordError]] = []
        self.fanout = Fanout(
            "me",
            PARTITIONS,
            make_tail=self.log.tail,
            replay=self.log.replay,
            presence=self.presence,
            put_aside=lambda record, error: self.put_aside.append((record, error)),
            buffer_bytes=buffer_bytes,
        )

    def open(self) -> tuple[Log, Lease]:
        log = Log(new_response_id(self.fanout.next_partition()))
        return log, self.fanout.open(log.id)

    def say(self, log: Log, *records: Any) -> None:
        for record in records:
            self.log.append(log.id.partition, record)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup()
    await made.fanout.rehome(())
    yield made
    await made.fanout.stop()


async def read(lease: Lease, starting_after: int = -1) -> list[ClientEvent]:
    cursor, events = lease.cursor(starting_after), []
    async with asyncio.timeout(5):
        while batch := await cursor.batch():
            events += batch
    return events


def projected(log: Log, records: list[Any]) -> list[ClientEvent]:
    projection = ResponsesProjection(log.id)
    return [event for record in records for event in projection.feed(record)]


def whole(log: Log) -> list[Any]:
    return [log.accepted(), log.delta(0, "Hel"), log.delta(3, "lo"), log.terminal(text="Hello")]


async def test_live_in_a_home_partition(setup: Setup, make_log: Callable[..., Log]) -> None:
    log, lease = setup.open()
    setup.say(make_log(log.id.partition), *whole(make_log(log.id.partition)))  # somebody else's: dropped
    setup.say(log, *whole(log))
    with lease:
        assert await read(lease) == projected(log, whole(log))
    assert setup.fanout.find(log.id) is None
    assert setup.presence.seen == []


async def test_leaving_early_detaches_once_the_last_reader_is_gone(setup: Setup) -> None:
    log, first = setup.open()
    first.stream.counted = True
    setup.say(log, log.accepted())
    async with asyncio.timeout(5):
        while first.stream.accepted is None:
            await first.stream.change()
    second = await setup.fanout.attach(log.id)
    assert second is not None
    assert second.stream is first.stream
    first.release()
    first.release()
    assert setup.presence.seen == []
    second.release()
    assert setup.presence.seen == [("detached", log.id.text)]


async def test_a_request_that_came_to_nothing_detaches_nothing(setup: Setup) -> None:
    _, lease = setup.open()
    lease.release()
    assert setup.presence.seen == []


async def test_joining_in_the_middle_gives_the_same_bytes(setup: Setup, make_log: Callable[..., Log]) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    partition = next(p for p in range(PARTITIONS) if p not in setup.fanout.home)
    log = make_log(partition)
    records = whole(log)
    setup.say(log, *records[:2])
    setup.log.replay_gate.clear()
    joining = asyncio.ensure_future(setup.fanout.attach(log.id))
    second = asyncio.ensure_future(setup.fanout.attach(log.id))
    async with asyncio.timeout(5):
        while not setup.log.replays:
            await asyncio.sleep(0)
    assert setup.presence.seen == [("attached", log.id.text)], "it counts before the log was read"
    setup.say(log, records[2])  # falls between the replay and its end
    setup.log.replay_gate.set()
    lease, other = await joining, await second
    assert lease is not None and other is not None
    setup.say(log, records[3])
    assert await read(lease) == projected(log, records)
    assert await read(other, starting_after=3) == projected(log, records)[4:]
    assert setup.log.replays == 1
    lease.release()
    other.release()
    assert setup.presence.seen == [("attached", log.id.text)]


async def test_a_foreign_follower_is_shared_and_ends_with_its_last_stream(
    setup: Setup, make_log: Callable[..., Log]
) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    partition = next(p for p in range(PARTITIONS) if p not in setup.fanout.home)
    before = len(setup.log.tails)
    logs = [make_log(partition) for _ in range(3)]
    for log in logs:
        setup.say(log, log.accepted())
    leases = await asyncio.gather(*(setup.fanout.attach(log.id) for log in logs))
    assert len(setup.log.tails) == before + 1
    for lease in leases:
        assert lease is not None
        lease.release()
    await asyncio.sleep(0.01)
    assert setup.log.tails[before].stopped
    again = await setup.fanout.attach(logs[0].id)
    assert again is not None
    assert len(setup.log.tails) == before + 2
    again.release()


async def test_unknown_and_ended_ids_cost_no_consumer(setup: Setup, make_log: Callable[..., Log]) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    before = len(setup.log.tails)
    partition = next(p for p in range(PARTITIONS) if p not in setup.fanout.home)
    unknown, ended = make_log(partition), make_log(partition)
    assert await setup.fanout.attach(unknown.id) is None
    assert setup.fanout.find(unknown.id) is None
    setup.say(ended, *whole(ended))
    lease = await setup.fanout.attach(ended.id)
    assert lease is not None
    with lease:
        assert await read(lease) == projected(ended, whole(ended))
    assert len(setup.log.tails) == before


async def test_a_replay_that_ended_before_the_follower_began_is_made_again(
    setup: Setup, make_log: Callable[..., Log]
) -> None:
    """Two scans of one partition run side by side: what lies between their ends must not be lost."""
    await setup.fanout.rehome(["a", "b", "c"])
    partition = next(p for p in range(PARTITIONS) if p not in setup.fanout.home)
    slow, quick = make_log(partition), make_log(partition)
    setup.say(slow, *whole(slow)[:2])
    setup.log.replay_gate.clear()
    joining = asyncio.create_task(setup.fanout.attach(slow.id))
    async with asyncio.timeout(5):
        while not setup.log.replays:
            await asyncio.sleep(0)
    setup.say(slow, whole(slow)[2])
    setup.say(quick, quick.accepted())
    gate, setup.log.replay_gate = setup.log.replay_gate, asyncio.Event()
    setup.log.replay_gate.set()
    first = await setup.fanout.attach(quick.id)
    gate.set()
    lease = await joining
    assert first is not None and lease is not None
    setup.say(slow, whole(slow)[3])
    assert await read(lease) == projected(slow, whole(slow))
    lease.release()
    first.release()


async def test_a_follower_is_in_no_trace_of_who_needed_it_first(
    setup: Setup, make_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    log = make_log(next(p for p in range(PARTITIONS) if p not in setup.fanout.home))
    setup.say(log, log.accepted())
    start, in_traces = FakeTail.start, list[bool]()

    async def noted(tail: FakeTail, positions: Any) -> None:
        in_traces.append(is_traced())
        await start(tail, positions)

    monkeypatch.setattr(FakeTail, "start", noted)
    with traced():
        lease = await setup.fanout.attach(log.id)
    assert lease is not None
    await asyncio.sleep(0)
    lease.release()
    assert in_traces == [False]


async def test_a_follower_that_cannot_connect_tries_again_and_loses_nothing(
    setup: Setup, make_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    partition = next(p for p in range(PARTITIONS) if p not in setup.fanout.home)
    log = make_log(partition)
    setup.say(log, *whole(log)[:2])
    monkeypatch.setattr(follower_module, "_RECONNECT_S", 0.01)
    start, failures = FakeTail.start, [BrokerUnavailableError("away"), BrokerUnavailableError("away")]

    async def flaky(tail: FakeTail, positions: Any) -> None:
        if failures:
            raise failures.pop()
        await start(tail, positions)

    monkeypatch.setattr(FakeTail, "start", flaky)
    lease = await setup.fanout.attach(log.id)
    assert lease is not None
    setup.say(log, *whole(log)[2:])
    with lease:
        assert await read(lease) == projected(log, whole(log))
    assert failures == []


async def test_a_failed_replay_reaches_every_waiter_and_may_be_tried_again(
    setup: Setup, make_log: Callable[..., Log]
) -> None:
    log = make_log(2)
    setup.say(log, log.accepted())
    replay = setup.fanout._replay

    async def broken(_: Any) -> Any:
        raise LogError("away")

    setup.fanout._replay = broken
    outcomes = await asyncio.gather(*(setup.fanout.attach(log.id) for _ in range(2)), return_exceptions=True)
    assert all(isinstance(outcome, LogError) for outcome in outcomes)
    setup.fanout._replay = replay
    lease = await setup.fanout.attach(log.id)
    assert lease is not None
    lease.release()


async def test_a_move_of_home_tears_no_stream(setup: Setup) -> None:
    """The retiring consumer is behind the new one: each stream hears one of them only."""
    log, lease = setup.open()
    old_tail = setup.log.tails[0]
    old_tail.pause()
    records = whole(log)
    setup.say(log, *records[:2])
    await setup.fanout.rehome(["a", "b"])
    setup.say(log, *records[2:])
    assert not old_tail.stopped
    old_tail.resume()
    with lease:
        assert await read(lease) == projected(log, records)
    await asyncio.sleep(0.01)
    assert old_tail.stopped


async def test_a_shutdown_in_the_middle_of_a_move_leaves_no_consumer_behind(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = asyncio.Event()

    async def hang(tail: FakeTail, positions: Any) -> None:
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeTail, "start", hang)
    moving = asyncio.create_task(setup.fanout.rehome(["a", "b"]))
    await connecting.wait()
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    assert [tail.stopped for tail in setup.log.tails] == [False, True]


async def test_new_ids_are_minted_in_the_new_home(setup: Setup) -> None:
    await setup.fanout.rehome(["a", "b", "c"])
    assert {setup.fanout.next_partition() for _ in range(50)} == setup.fanout.home
    assert await setup.fanout.rehome(["a", "b", "c"]) is False


async def test_the_end_of_a_follower_is_told(setup: Setup) -> None:
    setup.log.tails[0].queue.put_nowait(LogError("retention passed"))
    with pytest.raises(LogError):
        async with asyncio.timeout(5):
            await setup.fanout.failed()


async def test_who_follows_goes_on_while_the_writer_takes_no_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    writer: Any = MemoryWriter(MemoryLog(), Service.GATEWAY)
    writer.full = True
    app._put_aside(writer, RawRecord(3, 7, 0, "k", b"{oops}", ()), UnknownRecordError("no kind of ours"))
    await settle()
    assert "responses.events 3/7 has no dead letter, look for it there" in caplog.text
    assert writer.lost == ["responses.events"]


async def test_beyond_the_byte_bound_slow_readers_refill_from_the_log() -> None:
    setup = Setup(buffer_bytes=6_000)
    await setup.fanout.rehome(())
    log, lease = setup.open()
    records = [log.accepted(), *(log.delta(n, "x") for n in range(100)), log.terminal(text="x" * 100)]
    setup.say(log, *records)
    await asyncio.sleep(0.05)
    assert lease.stream.size_bytes <= 6_000
    assert lease.stream.view(RESPONSES).base > 0
    assert await read(lease) == projected(log, records)
    lease.release()
    await setup.fanout.stop()


async def test_an_unreadable_record_is_put_aside_and_blocks_nothing(log: Log) -> None:
    aside: list[RawRecord] = []
    follower = Follower(
        FakeLog().tail, frozenset({3}), buffer_bytes=1 << 20, put_aside=lambda record, _: aside.append(record)
    )
    stream = Stream(log.id)
    follower.add(stream)
    bad = RawRecord(3, 0, 0, log.id.text, b'{"type":"riddle"}', ())
    good = RawRecord(3, 1, 0, log.id.text, encode_value(log.accepted()), ())
    follower.dispatch([bad, good])
    assert aside == [bad]
    assert stream.accepted is not None
