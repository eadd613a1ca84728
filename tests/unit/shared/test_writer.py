"""Appending through a producer that fails, on a fake at aiokafka's boundary: every append is settled."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from shared.errors import AccessDeniedError, AppendError, BrokerUnavailableError, RecordRefusedError
from shared.ids import now_ms
from shared.log import Appended, LogWriter, writer
from shared.log.clients import MAX_REQUEST_BYTES
from shared.log.redrive import Redriver
from shared.records import DeadLetter, Heartbeat
from shared.settings import MeshSettings
from shared.topics import DEAD_LETTERS, EVENTS, HEARTBEATS, Outsider, Service
from tests.support.traces import is_traced, traced

PATIENCE_S = 0.05
EVENTS_LETTERS = DEAD_LETTERS[EVENTS.name]
LETTER = DeadLetter(
    origin_topic=EVENTS.name, origin_partition=3, origin_offset=0, service="history", error="", attempts=1, key="k"
)


class World:
    """The broker, and every producer that was made. `log` has what was appended, in so many `batches`."""

    def __init__(self) -> None:
        self.away = False
        self.log: list[bytes] = []
        self.batches = 0
        self.producers: list[Producer] = []

    def make(self, _settings: MeshSettings) -> "Producer":
        self.producers.append(Producer(self))
        return self.producers[-1]


class Client:
    """A producer's own; which partitions it knows of. Of a topic that is `unknown` it never hears."""

    def __init__(self, producer: "Producer") -> None:
        self.close = producer.stop
        self.cluster = self
        self.known = {0}
        self.there = {0}
        self.unknown: set[str] = set()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return None if topic in self.unknown else self.known

    async def _wait_on_metadata(self, topic: str) -> set[int]:
        if topic in self.unknown:
            await asyncio.Event().wait()
        return self.known

    async def force_metadata_update(self) -> bool:
        self.known = set(self.there)
        return True


class Producer:
    """As much of AIOKafkaProducer as the writer uses. `failure` fails sends at once or, `late`, their batches; while
    `mute`, nothing is ever answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.failure: Exception | None = None
        self.late: Exception | None = None
        self.mute = False
        self.batch_bytes = 1 << 18
        self.timestamp_ms = 0
        self.client = Client(self)
        self._sender = None
        self.closed = False
        self.in_traces: list[bool] = []

    async def start(self) -> None:
        if self.world.away:
            raise KafkaConnectionError("nobody listens")

    async def stop(self) -> None:
        self.closed = True

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_bytes, 0)

    async def send_batch(self, batch: BatchBuilder, _topic: str, *, partition: int) -> "asyncio.Future[Any]":
        assert batch.closed() and batch.record_count()
        self.in_traces.append(is_traced())
        assert partition in self.client.known, "Unrecognized partition"
        if self.failure is not None:
            raise self.failure
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.late is not None:
            answer.set_exception(self.late)
        elif not self.mute:
            offset = len(self.world.log)
            self.world.log += [record.value for record in DefaultRecordBatch(batch._build())]
            self.world.batches += 1
            answer.set_result(SimpleNamespace(partition=partition, offset=offset, timestamp=self.timestamp_ms))
        return answer


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(writer, "make_producer", world.make)
    monkeypatch.setattr("shared.log.clients.RECONNECT_S", 0)
    monkeypatch.setattr(LogWriter, "_patience_s", PATIENCE_S)
    return world


async def started(settings: MeshSettings | None = None) -> LogWriter:
    log_writer = LogWriter(settings or MeshSettings(), Service.HISTORY, "history-1")
    await log_writer.start()
    return log_writer


async def replaced(world: World, log_writer: LogWriter) -> None:
    """Returns once a second producer has started."""
    async with asyncio.timeout(5):
        while len(world.producers) < 2 or log_writer._producer is not world.producers[1]:
            await asyncio.sleep(0)


def beat(number: int) -> Heartbeat:
    return Heartbeat(service="history", id="history-1", state="ready", seq=number)


async def test_appends_keep_their_order(world: World) -> None:
    log_writer = await started()
    acks = await asyncio.gather(*(log_writer.enqueue(HEARTBEATS, beat(n), partition=0) for n in range(5)))
    assert [ack.offset for ack in acks] == list(range(5))
    assert [value.count(f'"seq":{n}'.encode()) for n, value in enumerate(world.log)] == [1] * 5
    assert world.batches == 1, "what waits together is sent together"
    await log_writer.stop()
    assert world.producers[0].closed


async def test_what_is_sent_for_many_is_in_no_trace_of_the_first(world: World) -> None:
    log_writer = await started()
    with traced():
        await log_writer.append(HEARTBEATS, beat(0), partition=0)
    assert world.producers[0].in_traces == [False]
    await log_writer.stop()


async def test_a_full_batch_is_followed_by_the_next(world: World) -> None:
    log_writer = await started()
    world.producers[0].batch_bytes = 1000
    acks = await asyncio.gather(*(log_writer.enqueue(HEARTBEATS, beat(n), partition=0) for n in range(10)))
    assert [ack.offset for ack in acks] == list(range(10))
    assert [value.count(f'"seq":{n}'.encode()) for n, value in enumerate(world.log)] == [1] * 10
    assert 1 < world.batches < 10
    await log_writer.stop()


async def test_what_is_too_large_fails_alone(world: World) -> None:
    log_writer = await started()
    large = Heartbeat(service="history", id="history-1", state="ready", seq=1, detail="x" * MAX_REQUEST_BYTES)
    records = [beat(0), large, beat(2)]
    appends = [log_writer.enqueue(HEARTBEATS, record, partition=0) for record in records]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert isinstance(outcomes[1], RecordRefusedError) and "exceed the limit" in str(outcomes[1])
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, Appended)] == [0, 1]
    await log_writer.stop()


@pytest.mark.parametrize("detail", [object(), "\ud800"], ids=["foreign type", "lone surrogate"])
async def test_what_cannot_be_written_down_fails_alone(world: World, detail: Any) -> None:
    """Nothing else waits for it: a partition whose queue stood still would take everybody's records along."""
    log_writer = await started()
    records = [beat(0), msgspec.structs.replace(beat(1), detail=detail), beat(2)]
    appends = [log_writer.enqueue(HEARTBEATS, record, partition=0) for record in records]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert isinstance(outcomes[1], RecordRefusedError)
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, Appended)] == [0, 1]
    await log_writer.stop()


async def test_what_the_broker_calls_too_long_is_refused_and_no_reason_for_a_new_producer(world: World) -> None:
    log_writer = await started()
    world.producers[0].late = MessageSizeTooLargeError()
    with pytest.raises(RecordRefusedError):
        await log_writer.append(HEARTBEATS, beat(0), partition=0)
    assert len(world.producers) == 1
    await log_writer.stop()


async def test_an_ack_tells_the_brokers_clock_or_where_it_keeps_none_ours(world: World) -> None:
    log_writer = await started()
    world.producers[0].timestamp_ms = 77
    assert (await log_writer.append(HEARTBEATS, beat(0), partition=0)).timestamp_ms == 77
    world.producers[0].timestamp_ms = -1
    before_ms = now_ms()
    assert before_ms <= (await log_writer.append(HEARTBEATS, beat(1), partition=0)).timestamp_ms <= now_ms()
    await log_writer.stop()


async def test_a_batch_that_expired_is_a_failed_append_and_no_reason_for_a_new_producer(world: World) -> None:
    log_writer = await started()
    world.producers[0].late = RequestTimedOutError()
    with pytest.raises(AppendError, match="RequestTimedOutError"):
        await log_writer.append(HEARTBEATS, beat(1), partition=0)
    world.producers[0].late = None
    await log_writer.append(HEARTBEATS, beat(2), partition=0)
    assert log_writer.heals == 0
    await log_writer.stop()


async def test_a_producer_whose_sender_died_is_replaced(world: World) -> None:
    log_writer = await started()
    world.producers[0].failure = KafkaError("Unexpected error during batch delivery")
    with pytest.raises(AppendError):
        await log_writer.append(HEARTBEATS, beat(1), partition=0)
    await replaced(world, log_writer)
    await log_writer.append(HEARTBEATS, beat(2), partition=0)
    assert (log_writer.heals, world.producers[0].closed) == (1, True)
    await log_writer.stop()


async def test_a_producer_that_answers_no_more_is_replaced_and_every_append_is_settled(world: World) -> None:
    log_writer = await started()
    world.producers[0].mute = True
    waiting = [log_writer.enqueue(HEARTBEATS, beat(n), partition=0) for n in range(3)]
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, AppendError) for outcome in outcomes)
    await replaced(world, log_writer)
    await log_writer.append(HEARTBEATS, beat(9), partition=0)
    assert log_writer.heals == 1
    await log_writer.stop()


async def test_while_the_broker_is_away_the_replacement_waits_and_appends_fail_at_once(world: World) -> None:
    log_writer = await started()
    world.away = True
    world.producers[0].failure = KafkaError("Unexpected error during batch delivery")
    with pytest.raises(AppendError):
        await log_writer.append(HEARTBEATS, beat(1), partition=0)
    async with asyncio.timeout(5):
        while len(world.producers) < 4:
            await asyncio.sleep(0)
    with pytest.raises(AppendError, match="does not answer yet"):
        await log_writer.append(HEARTBEATS, beat(2), partition=0)
    world.away = False
    async with asyncio.timeout(5):
        while not world.log:
            await asyncio.gather(log_writer.enqueue(HEARTBEATS, beat(3), partition=0), return_exceptions=True)
    assert log_writer.heals == 1
    await log_writer.stop()


async def test_a_slow_producer_is_not_a_dead_one(world: World) -> None:
    """As long as anything is settled, what waits is left alone."""
    log_writer = await started()
    world.producers[0].mute = True
    slow = log_writer.enqueue(HEARTBEATS, beat(0), partition=0)
    await asyncio.sleep(0)
    world.producers[0].mute = False
    deadline = asyncio.get_running_loop().time() + 4 * PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        await log_writer.append(HEARTBEATS, beat(1), partition=0)
        await asyncio.sleep(0)
    assert not slow.done() and log_writer.heals == 0
    await log_writer.stop()


async def test_a_broker_that_never_answered_is_said_at_the_start(world: World) -> None:
    world.away = True
    with pytest.raises(BrokerUnavailableError):
        await started()
    assert world.producers[0].closed


@pytest.mark.parametrize("late", [False, True])
async def test_a_broker_that_forbids_an_append_ends_whoever_watches(world: World, late: bool) -> None:
    log_writer = await started()
    watching = asyncio.create_task(log_writer.failed())
    forbidden = TopicAuthorizationFailedError("service.heartbeats")
    setattr(world.producers[0], "late" if late else "failure", forbidden)
    with pytest.raises(AppendError):
        await log_writer.append(HEARTBEATS, beat(0), partition=0)
    with pytest.raises(AccessDeniedError, match=r"User:ANONYMOUS may not append to service\.heartbeats"):
        await asyncio.wait_for(watching, 1)
    assert log_writer.heals == 0
    await log_writer.stop()


# -- partitions ------------------------------------------------------------------------------------------------


async def test_a_partition_that_is_younger_than_the_metadata_is_looked_for(world: World) -> None:
    """Partitions are added while the mesh runs; aiokafka looks at the topic again every five minutes."""
    log_writer = await started()
    world.producers[0].client.there = {0, 1}
    assert (await log_writer.append(HEARTBEATS, beat(0), partition=1)).partition == 1
    await log_writer.stop()


@pytest.mark.parametrize("partition", [7, -1])
async def test_a_partition_that_is_not_there_fails_its_appends_and_no_others(world: World, partition: int) -> None:
    log_writer = await started()
    for _ in range(2):
        with pytest.raises(AppendError, match=rf"service\.heartbeats has no partition {partition}"):
            await log_writer.append(HEARTBEATS, beat(0), partition=partition)
    await log_writer.append(HEARTBEATS, beat(1), partition=0)
    assert log_writer.heals == 0
    await log_writer.stop()


async def test_a_producer_that_never_learns_where_a_topic_is_is_replaced(world: World) -> None:
    """Its metadata task has died, and of other topics it knows enough to go on."""
    log_writer = await started()
    world.producers[0].client.unknown = {EVENTS_LETTERS.name}
    stuck = log_writer.enqueue(EVENTS_LETTERS, LETTER, partition=0)
    async with asyncio.timeout(5):
        while not stuck.done():
            with suppress(AppendError):  # the last one is given up with its producer
                await log_writer.append(HEARTBEATS, beat(0), partition=0)
    with pytest.raises(AppendError, match="TimeoutError"):
        await stuck
    await replaced(world, log_writer)
    await log_writer.append(EVENTS_LETTERS, LETTER, partition=0)
    await log_writer.stop()


async def test_a_bug_below_fails_the_append_and_the_partition_goes_on(world: World) -> None:
    log_writer = await started()
    world.producers[0].failure = AssertionError("Unrecognized partition")
    with pytest.raises(AppendError, match="Unrecognized partition"):
        await log_writer.append(HEARTBEATS, beat(0), partition=0)
    world.producers[0].failure = None
    await log_writer.append(HEARTBEATS, beat(1), partition=0)
    await log_writer.stop()


async def test_a_letter_that_was_shortened_is_not_sent_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.log.redrive.make_producer", world.make)
    async with Redriver(MeshSettings(), Outsider.OPERATOR, "operator") as redriver:
        with pytest.raises(RecordRefusedError, match=r"of responses\.events/3/0 has only the beginnings of its record"):
            await redriver.send_back(msgspec.structs.replace(LETTER, shortened=True), 1)
    assert world.log == []


async def test_a_letter_from_a_partition_that_is_gone_is_not_sent_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.redrive.make_producer", world.make)
    async with Redriver(MeshSettings(), Outsider.OPERATOR, "operator") as redriver:
        with pytest.raises(AppendError, match=r"responses\.events has no partition 3"):
            await redriver.send_back(LETTER, 1)
