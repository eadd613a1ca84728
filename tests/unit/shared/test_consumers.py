"""Consumers that stand still, on a fake at aiokafka's boundary: noticed, replaced, nothing lost or doubled."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from shared.errors import AccessDeniedError, BrokerUnavailableError, LogError, ReplayGoneError
from shared.log import GroupConsumer, RawRecord, Tail, watching
from shared.log.watching import Poller, StalledError, Standstill
from shared.settings import MeshSettings
from shared.topics import EVENTS, JOURNAL, Service

SETTINGS = MeshSettings(partitions=2)
P0, P1 = TopicPartition(EVENTS.name, 0), TopicPartition(EVENTS.name, 1)


class World:
    """What the log holds, and every consumer that was made."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {0: 0, 1: 0}
        self.away = False
        self.consumers: list[Consumer] = []
        self.prepare: Callable[[Consumer], None] = lambda _consumer: None

    def make(self, _settings: MeshSettings, **_options: Any) -> "Consumer":
        consumer = Consumer(self)
        self.consumers.append(consumer)
        self.prepare(consumer)
        return consumer


class Consumer:
    """As much of AIOKafkaConsumer as shared.log uses. While `deaf`, it gives nothing and says nothing, as a consumer
    whose fetcher died does; `failure` is raised by the next poll."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.positions: dict[TopicPartition, int] = {}
        self.deaf: set[int] = set()
        self.fetched: set[TopicPartition] = set()
        self.failure: Exception | None = None
        self.closed = False
        self.listener: ConsumerRebalanceListener | None = None
        self.asleep: set[TopicPartition] = set()
        self.topic = EVENTS.name
        self._fetcher = None
        self._client = SimpleNamespace(
            _get_conn_lock=asyncio.Lock(), cluster=SimpleNamespace(unauthorized_topics=set[str]())
        )
        self._coordinator = SimpleNamespace(generation=1)

    async def start(self) -> None:
        if self.world.away:
            raise KafkaConnectionError("nobody listens")
        if self.listener is not None:
            await self.give({0, 1})

    async def stop(self) -> None:
        self.closed = True

    def subscribe(self, topics: list[str], listener: ConsumerRebalanceListener) -> None:
        (self.topic,), self.listener = topics, listener

    async def give(self, numbers: set[int]) -> None:
        """The group assigns these partitions."""
        self.positions = {TopicPartition(self.topic, number): 0 for number in numbers}
        assert self.listener is not None
        await self.listener.on_partitions_assigned(set(self.positions))

    async def take(self) -> None:
        """The group takes all of them away."""
        gone, self.positions = set(self.positions), {}
        assert self.listener is not None
        await self.listener.on_partitions_revoked(gone)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.positions = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def assignment(self) -> set[TopicPartition]:
        return set(self.positions)

    def paused(self) -> set[TopicPartition]:
        return set(self.asleep)

    def pause(self, *partitions: TopicPartition) -> None:
        self.asleep |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.asleep -= set(partitions)

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.world.away:
            raise KafkaTimeoutError("no answer")
        return {where: self.world.ends[where.partition] for where in partitions}

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        """Each record is as many milliseconds old as its offset says."""
        return {
            where: SimpleNamespace(offset=at_ms, timestamp=at_ms) if at_ms < self.world.ends[where.partition] else None
            for where, at_ms in times.items()
        }

    def highwater(self, partition: TopicPartition) -> int | None:
        """Known once the partition was fetched."""
        return self.world.ends[partition.partition] if partition in self.fetched else None

    async def commit(self, _offsets: Any) -> None:
        await asyncio.Event().wait()  # what aiokafka does without a coordinator

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        found = {}
        for where, at in self.positions.items():
            end = self.world.ends[where.partition]
            if where.partition in self.deaf or where in self.asleep:
                continue
            self.fetched.add(where)
            if at < end:
                found[where] = [message(where.partition, offset) for offset in range(at, end)]
                self.positions[where] = end
        return found


def message(partition: int, offset: int) -> Any:
    return SimpleNamespace(partition=partition, offset=offset, timestamp=0, key=b"k", value=b"v", headers=())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr("shared.log.tail.make_consumer", world.make)
    monkeypatch.setattr("shared.log.group.make_consumer", world.make)
    monkeypatch.setattr("shared.log.clients.RECONNECT_S", 0)
    monkeypatch.setattr("shared.log.reading.RECONNECT_S", 0)
    monkeypatch.setattr("shared.log.group.RECONNECT_S", 0)
    monkeypatch.setattr(watching, "STALLED_AFTER_S", 0)  # a look before every poll
    return world


async def read(batches: AsyncIterator[list[RawRecord]], count: int) -> list[tuple[int, int]]:
    """(partition, offset) of the next `count` records at least."""
    found: list[tuple[int, int]] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += [(record.partition, record.offset) for record in await anext(batches)]
    return found


# -- judging ---------------------------------------------------------------------------------------------------


def test_who_has_read_everything_stands_still_by_right() -> None:
    standstill = Standstill()
    assert [standstill.judge({P0: 5}, {P0: 5}) for _ in range(3)] == [[], [], []]


def test_the_end_must_have_been_ahead_for_a_whole_look() -> None:
    standstill = Standstill()
    assert standstill.judge({P0: 5}, {P0: 5}) == []
    assert standstill.judge({P0: 5}, {P0: 9}) == []  # it came this moment
    assert standstill.judge({P0: 5}, {P0: 9}) == [P0]


def test_who_moves_however_slowly_does_not_stand() -> None:
    standstill = Standstill()
    assert [standstill.judge({P0: at}, {P0: 9}) for at in (5, 6, 7)] == [[], [], []]


def test_one_partition_may_stand_while_others_flow() -> None:
    standstill = Standstill()
    assert standstill.judge({P0: 5, P1: 5}, {P0: 9, P1: 9}) == []
    assert standstill.judge({P0: 5, P1: 9}, {P0: 9, P1: 12}) == [P0]


def test_a_position_that_is_never_found_stands() -> None:
    standstill = Standstill()
    assert standstill.judge({P0: None}, {P0: 0}) == []
    assert standstill.judge({P0: None}, {P0: 0}) == [P0]


async def test_a_busy_reader_is_no_standstill(world: World) -> None:
    """Time that the reader spends elsewhere does not count as waiting."""
    watched = world.make(SETTINGS)
    watched.assign([P0])
    watched.deaf = {0}
    world.ends[0] = 3
    now_s = 0.0
    poller = Poller(watched, clock=lambda: now_s)  # type: ignore[arg-type]
    watching.STALLED_AFTER_S = 5.0
    for _ in range(5):
        now_s += 60.0
        await poller.poll(0)


async def test_a_client_that_nobody_answers_is_given_up(world: World) -> None:
    watched = world.make(SETTINGS)
    watched.assign([P0])
    world.away = True
    poller = Poller(watched)  # type: ignore[arg-type]
    with pytest.raises(StalledError, match="nobody answers"):
        for _ in range(watching.UNANSWERED_LOOKS):
            await poller.poll(0)


async def test_a_topic_that_may_not_even_be_seen_is_not_waited_for(world: World) -> None:
    watched = world.make(SETTINGS)
    watched.assign([P0])
    watched._client.cluster.unauthorized_topics = {P0.topic, "another"}
    with pytest.raises(TopicAuthorizationFailedError, match=P0.topic):
        await Poller(watched).poll(0)  # type: ignore[arg-type]


# -- following -------------------------------------------------------------------------------------------------


async def test_a_tail_that_stands_still_goes_on_from_its_next_record(world: World) -> None:
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    await tail.start({0: 0, 1: None})
    async with aclosing(tail.batches()) as batches:
        world.ends = {0: 2, 1: 1}
        assert sorted(await read(batches, 3)) == [(0, 0), (0, 1), (1, 0)]
        world.consumers[0].deaf = {0}
        world.ends = {0: 4, 1: 2}
        assert sorted(await read(batches, 3)) == [(0, 2), (0, 3), (1, 1)]
    assert tail.heals == 1
    assert [consumer.closed for consumer in world.consumers] == [True, False]


async def test_what_moves_while_another_partition_stands_is_not_read_twice(world: World) -> None:
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    await tail.start({0: 0, 1: 0})
    world.consumers[0].deaf = {0}
    world.ends = {0: 1, 1: 5}
    async with aclosing(tail.batches()) as batches:
        found = await read(batches, 6)
    assert sorted(found) == [(0, 0), *((1, offset) for offset in range(5))]


async def test_a_tail_outlives_an_outage(world: World) -> None:
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    await tail.start({0: 0})
    world.away = True
    world.prepare = lambda _consumer: setattr(world, "away", len(world.consumers) < 4)
    async with aclosing(tail.batches()) as batches:
        world.ends[0] = 1
        world.consumers[0].failure = KafkaError("Unexpected error during data retrieval")
        assert await read(batches, 1) == [(0, 0)]
    assert (tail.heals, len(world.consumers)) == (1, 4)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OffsetOutOfRangeError({}), ReplayGoneError),
        (CorruptRecordException(), BrokerUnavailableError),
        (UnsupportedCodecError("Unknown compression codec 0x07"), BrokerUnavailableError),
        (TopicAuthorizationFailedError("responses.events"), AccessDeniedError),
    ],
)
async def test_what_a_new_consumer_would_meet_again_is_raised(
    world: World, failure: Exception, raised: type[Exception]
) -> None:
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    await tail.start({0: 0})
    world.consumers[0].failure = failure
    async with aclosing(tail.batches()) as batches:
        with pytest.raises(raised):
            await read(batches, 1)


async def test_a_tail_starts_at_a_time_and_knows_the_ends(world: World) -> None:
    world.ends = {0: 5, 1: 2}
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    assert await tail.start_since([0, 1], 3) == {0: 5, 1: 2}
    world.ends = {0: 6, 1: 3}
    assert sorted(await read(tail.batches(), 4)) == [(0, 3), (0, 4), (0, 5), (1, 2)]
    await tail.stop()


async def test_a_backlog_ends_where_the_log_does_and_not_where_nothing_was_heard_yet(world: World) -> None:
    world.ends = {0: 3, 1: 0}
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    await tail.start({0: 1, 1: 0})
    world.consumers[0].deaf = {1}  # its end is not known
    backlog = tail.backlog()
    assert await read(backlog, 2) == [(0, 1), (0, 2)]
    world.ends = {0: 4, 1: 1}
    world.consumers[0].deaf = set()
    assert sorted(await read(backlog, 2)) == [(0, 3), (1, 0)]
    assert [batch async for batch in backlog] == []
    world.ends[0] = 5
    assert await read(tail.batches(), 1) == [(0, 4)]
    await tail.stop()


async def test_what_nobody_misses_is_skipped(world: World) -> None:
    """A laptop that slept for longer than heartbeats are kept must not lose its services."""
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS, skips_gone=True)
    await tail.start({0: 0, 1: 0})
    world.ends = {0: 7, 1: 2}
    world.consumers[0].failure = OffsetOutOfRangeError({P0: 0})
    async with aclosing(tail.batches()) as batches:
        assert await read(batches, 2) == [(1, 0), (1, 1)]
        world.ends[0] = 8
        assert await read(batches, 1) == [(0, 7)]


# -- in a group ------------------------------------------------------------------------------------------------


class Owner:
    """A service's hooks: `changes` has what they were told, `trouble` is raised by the next assignments."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, list[int]]] = []
        self.trouble: list[Exception] = []

    async def assigned(self, numbers: list[int]) -> None:
        if self.trouble:
            raise self.trouble.pop(0)
        self.changes.append(("assigned", numbers))

    async def revoked(self, numbers: list[int]) -> None:
        self.changes.append(("revoked", numbers))


def member(owner: Owner) -> GroupConsumer:
    return GroupConsumer(
        SETTINGS, Service.MODERATION, JOURNAL, "g", on_assigned=owner.assigned, on_revoked=owner.revoked
    )


async def test_records_wait_for_an_assignment_that_the_broker_disturbed(world: World) -> None:
    """aiokafka only logs what the hook raises: the partitions would be nobody's."""
    owner = Owner()
    owner.trouble = [LogError("no end"), LogError("no end")]
    journal = member(owner)
    world.ends = {0: 1, 1: 1}
    await journal.start()
    assert owner.changes == [("assigned", [0, 1])]
    async with aclosing(journal.batches()) as batches:
        assert sorted(await read(batches, 2)) == [(0, 0), (1, 0)]


async def test_a_bug_in_the_hook_ends_the_service(world: World) -> None:
    owner = Owner()
    owner.trouble = [ZeroDivisionError()]
    journal = member(owner)
    await journal.start()
    async with aclosing(journal.batches()) as batches:
        with pytest.raises(ZeroDivisionError):
            await read(batches, 1)


async def test_a_rebalance_ends_an_assignment_that_is_still_being_taken_over(world: World) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_numbers: list[int]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    owner = Owner()
    journal = GroupConsumer(SETTINGS, Service.MODERATION, JOURNAL, "g", on_assigned=slow, on_revoked=owner.revoked)
    joining = asyncio.create_task(journal.start())
    await begun.wait()
    await world.consumers[0].take()  # the coordinator's task is not held up by the hook
    assert ended.is_set() and owner.changes == [("revoked", [0, 1])]
    await joining
    await journal.stop()


@pytest.mark.parametrize("failure", [None, KafkaError("Unexpected error during coordination")])
async def test_a_member_that_stands_still_gives_up_and_joins_anew(world: World, failure: Exception | None) -> None:
    owner = Owner()
    journal = member(owner)
    await journal.start()
    world.consumers[0].deaf = {0, 1}
    world.consumers[0].failure = failure
    world.ends = {0: 1, 1: 1}
    async with aclosing(journal.batches()) as batches:
        await read(batches, 2)
    assert owner.changes == [("assigned", [0, 1]), ("revoked", [0, 1]), ("assigned", [0, 1])]
    assert journal.heals == 1 and world.consumers[0].closed


async def test_a_commit_does_not_wait_for_the_end_of_an_outage(world: World) -> None:
    journal = GroupConsumer(MeshSettings(request_timeout_ms=500), Service.MODERATION, JOURNAL, "g")
    await journal.start()
    with pytest.raises(LogError, match=r"no answer within 0\.5 s"):
        await journal.commit(0, 1)


async def healing(world: World, journal: GroupConsumer) -> None:
    """Its consumer breaks; returns once records come again."""
    world.consumers[0].failure = KafkaError("Unexpected error during coordination")
    world.ends = {0: 1, 1: 1}
    async with aclosing(journal.batches()) as batches:
        await read(batches, 2)


async def test_whoever_asks_a_member_that_joins_anew_is_told_to_wait(world: World) -> None:
    """A consumer that has not started would raise AttributeError, one that is closed connect again."""
    journal = member(Owner())
    await journal.start()
    told = []

    async def ask_and_start() -> None:
        for question in (journal.position(0), journal.end_offset(0), journal.committed(0)):
            with pytest.raises(LogError, match="joined anew"):
                await question
            told.append(question)
        assert not await journal.commit(0, 1)
        await Consumer.start(world.consumers[1])

    world.prepare = lambda consumer: setattr(consumer, "start", ask_and_start)
    await healing(world, journal)
    assert len(told) == 3


async def test_a_right_that_is_withdrawn_while_a_member_joins_anew_ends_it(world: World) -> None:
    """Tried again for ever, it would say that it is ready and read nothing."""
    journal = member(Owner())
    await journal.start()

    async def refused() -> None:
        raise GroupAuthorizationFailedError("g")

    world.prepare = lambda consumer: setattr(consumer, "start", refused)
    with pytest.raises(AccessDeniedError, match=r"may not read responses\.journal as g"):
        await healing(world, journal)
    assert world.consumers[1].closed


async def test_what_a_rebalance_gives_to_a_member_that_leaves_is_nobodys(world: World) -> None:
    owner = Owner()
    journal = member(owner)
    await journal.start()
    leaving = world.consumers[0]

    async def stop() -> None:
        await leaving.give({0})
        leaving.closed = True

    leaving.stop = stop  # type: ignore[method-assign]
    await healing(world, journal)
    assert leaving.closed
    assert owner.changes == [("assigned", [0, 1]), ("revoked", [0, 1]), ("assigned", [0, 1])]


async def test_a_commit_of_a_member_that_leaves_is_lost_and_ends_nobody(world: World) -> None:
    """Its task is cancelled; who waits for it in another task is not."""
    journal = member(Owner())
    await journal.start()
    committing = asyncio.create_task(journal.commit(0, 1))
    await asyncio.sleep(0)
    await healing(world, journal)
    assert await committing is False


async def test_a_start_that_is_cancelled_leaves_no_consumer_behind(world: World) -> None:
    tail = Tail(SETTINGS, Service.GATEWAY, EVENTS)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await go_on.wait()

    world.prepare = lambda consumer: setattr(consumer, "start", slow)
    starting = asyncio.create_task(tail.start({0: 0}))
    await begun.wait()
    starting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert world.consumers[0].closed


@pytest.mark.parametrize("brought", [0, 1])
async def test_consumers_that_bring_nothing_are_not_replaced_in_a_hurry(
    world: World, monkeypatch: pytest.MonkeyPatch, brought: int
) -> None:
    """What no consumer can read breaks each of them as soon as it has connected."""
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        pauses.extend([delay_s] if delay_s == 7 else [])
        await real_sleep(0)

    monkeypatch.setattr("shared.log.reading.RECONNECT_S", 7)
    monkeypatch.setattr("asyncio.sleep", sleep)
    journal = member(Owner())
    world.ends = {0: brought, 1: 0}
    await journal.start()
    async with aclosing(journal.batches()) as batches:
        await read(batches, brought)
        world.consumers[0].failure = KafkaError("Unexpected error during data retrieval")
        world.ends = {0: brought + 1, 1: 0}
        await read(batches, 1)
    assert pauses == ([] if brought else [7])


async def test_the_ends_are_known_also_while_nobody_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits for its store polls nothing, and no fetch brings an end along."""
    monkeypatch.setattr("shared.log.ends.ASKED_EVERY_S", 0)
    journal = member(Owner())
    await journal.start()
    world.away = True
    await asyncio.sleep(0.01)
    world.away = False
    world.ends = {0: 7, 1: 0}
    async with asyncio.timeout(5):
        while {where.partition: end for where, end in journal._reading.ends.items()} != {0: 7, 1: 0}:
            await asyncio.sleep(0)
    await journal.stop()
    late: list[Any] = []
    monkeypatch.setattr(world.consumers[0], "end_offsets", late.append)
    await asyncio.sleep(0.01)
    assert (journal._reading.ends, late) == ({}, []), "a question to who is closed would connect again"
