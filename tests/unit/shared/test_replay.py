"""Finding a response's beginning, and what an outage of the broker does to it, on a consumer in memory."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError

from shared.errors import BrokerUnavailableError, ReplayGoneError
from shared.ids import new_response_id
from shared.log import Replayer
from shared.records import Accepted, Delta, Events, ResponseSpec, Screening
from shared.records.codec import encode_headers, encode_value
from shared.settings import MeshSettings
from shared.topics import EVENTS, Service

CREATED_MS = 1_790_000_000_000
ID = new_response_id(0, unix_ms=CREATED_MS)
R = ID.text


class MemoryConsumer:
    """As much of aiokafka's consumer as a replay uses; `begin` is where retention has got to."""

    def __init__(self, records: list[tuple[int, Events]], begin: int = 0) -> None:
        self.begin = begin
        self.messages = [
            SimpleNamespace(
                partition=0,
                offset=offset,
                timestamp=CREATED_MS + delay_ms,
                key=record.subject.encode(),
                value=encode_value(record),
                headers=encode_headers(record, "test"),
            )
            for offset, (delay_ms, record) in enumerate(records)
        ]
        self.at = 0
        self.paused = True

    async def start(self) -> None:
        pass

    def assign(self, _partitions: list[TopicPartition]) -> None:
        self.paused = False

    def pause(self, _partition: TopicPartition) -> None:
        self.paused = True

    def resume(self, _partition: TopicPartition) -> None:
        self.paused = False

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partitions[0]: self.begin}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partitions[0]: len(self.messages)}

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        ((partition, since_ms),) = times.items()
        return {partition: next((m for m in self.messages[self.begin :] if m.timestamp >= since_ms), None)}

    def seek(self, _partition: TopicPartition, offset: int) -> None:
        self.at = offset

    async def position(self, _partition: TopicPartition) -> int:
        return self.at

    async def getmany(self, partition: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        assert not self.paused, "a paused partition gives nothing, ever"
        start, self.at = self.at, len(self.messages)
        return {partition: self.messages[start:]}

    def highwater(self, _partition: TopicPartition) -> int:
        return len(self.messages)


async def reading(consumer: MemoryConsumer) -> Replayer:
    replayer = Replayer(MeshSettings(partitions=1), Service.GATEWAY)
    with patch("shared.log.replay.make_consumer", lambda _settings, **_: consumer):
        await replayer.start()
    return replayer


async def replayed(records: list[tuple[int, Events]], begin: int = 0) -> list[Events]:
    replayer = await reading(MemoryConsumer(records, begin))
    return [envelope.record for envelope in (await replayer.replay(EVENTS, ID)).records]


def accepted(response_id: str = R) -> Accepted:
    return Accepted(
        response_id=response_id,
        tenant="t",
        spec=ResponseSpec(model="m", input=[]),
        policy="p",
        created_ms=CREATED_MS,
        deadline_ms=CREATED_MS + 1,
        input_tokens=1,
    )


DELTA = Delta(response_id=R, start=0, end=1, text="x", policy="p", window=0)
MARK = Screening(response_id=R, epoch=1, owner="moderation_2")
OTHER = accepted(new_response_id(0, unix_ms=CREATED_MS).text)


async def test_a_response_is_found_by_its_id_alone() -> None:
    assert await replayed([(-60_000, OTHER), (10, accepted()), (20, OTHER), (30, DELTA)]) == [accepted(), DELTA]


async def test_a_clock_that_is_off_by_more_than_the_margin_costs_only_steps_back() -> None:
    log = [(-90_000, OTHER), (-60_000, accepted()), (30, DELTA)]
    assert await replayed(log) == [accepted(), DELTA]


async def test_an_owner_may_mark_its_epoch_before_anything_was_accepted() -> None:
    """The first owner died between `requested` and `accepted`; the successor fences, then accepts (DESIGN 6.1)."""
    assert await replayed([(-60_000, OTHER), (10, MARK), (20, accepted()), (30, DELTA)]) == [MARK, accepted(), DELTA]


async def test_a_response_that_a_successor_refused_was_never_there() -> None:
    assert [r for r in await replayed([(-60_000, OTHER), (10, MARK)]) if not isinstance(r, Screening)] == []


async def test_nothing_in_a_log_that_covers_its_time_means_that_it_does_not_exist() -> None:
    assert await replayed([(-60_000, OTHER), (10, OTHER)]) == []


@pytest.mark.parametrize("rest", [[(30, DELTA)], [(30, MARK), (40, DELTA)], []])
async def test_what_retention_has_cut_is_gone(rest: list[tuple[int, Events]]) -> None:
    with pytest.raises(ReplayGoneError):
        await replayed([(10, accepted()), *rest, (50, OTHER)], begin=1)


async def test_between_replays_nothing_is_fetched() -> None:
    """A fetch that waits at the log's end would hold up the next replay."""
    consumer = MemoryConsumer([(10, accepted()), (20, DELTA)])
    replayer = await reading(consumer)
    for _ in range(2):
        assert len((await replayer.replay(EVENTS, ID)).records) == 2
        assert consumer.paused


async def test_an_unreadable_record_is_left_out_as_its_live_readers_do() -> None:
    consumer = MemoryConsumer([(10, accepted()), (20, DELTA), (30, DELTA)])
    consumer.messages[1].value = b"{oops}"
    replayer = await reading(consumer)
    assert [envelope.record for envelope in (await replayer.replay(EVENTS, ID)).records] == [accepted(), DELTA]


# -- when the broker is away -----------------------------------------------------------------------------------


class Connections:
    """Every consumer that was made, and whether the broker answers."""

    def __init__(self) -> None:
        self.made: list[FailingConsumer] = []
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()

    def make(self, _settings: MeshSettings, **_: Any) -> "FailingConsumer":
        self.made.append(FailingConsumer(self))
        return self.made[-1]


class FailingConsumer(MemoryConsumer):
    """`mute`: it gives no records, as a consumer whose fetcher died."""

    def __init__(self, connections: Connections) -> None:
        super().__init__([(10, accepted()), (30, DELTA)])
        self._connections = connections
        self._fetcher = self._coordinator = None
        self._client = SimpleNamespace(_get_conn_lock=asyncio.Lock())
        self.mute = False
        self.started = False
        self.closed = False

    async def start(self) -> None:
        await self._connections.answers.wait()
        self._ask()
        self.started = True

    async def stop(self) -> None:
        self.closed = True

    def _ask(self) -> None:
        if self._connections.away:
            raise KafkaTimeoutError("no answer")

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        if not self.started:
            raise AttributeError("'NoneType' object has no attribute 'beginning_offsets'")
        self._ask()
        return await super().beginning_offsets(partitions)

    async def getmany(self, partition: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        return {} if self.mute else await super().getmany(partition, timeout_ms)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    connections = Connections()
    monkeypatch.setattr("shared.log.replay.make_consumer", connections.make)
    return connections


async def test_a_replay_during_an_outage_fails_and_the_next_one_connects_anew(connections: Connections) -> None:
    replayer = Replayer(MeshSettings(partitions=1), Service.GATEWAY)
    await replayer.start()
    connections.away = True
    for _ in range(2):
        with pytest.raises(BrokerUnavailableError, match="no answer"):
            await replayer.replay(EVENTS, ID)
    connections.away = False
    assert len((await replayer.replay(EVENTS, ID)).records) == 2
    assert [made.closed for made in connections.made] == [True, True, False]
    assert replayer.heals == 2


async def test_who_waited_behind_a_replay_that_failed_does_not_try_in_turn(connections: Connections) -> None:
    """A thousand clients that resume must not wait for a thousand timeouts, one after the other."""
    replayer = Replayer(MeshSettings(partitions=1), Service.GATEWAY)
    await replayer.start()
    connections.away = True
    outcomes = await asyncio.gather(*(replayer.replay(EVENTS, ID) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, BrokerUnavailableError) for outcome in outcomes)
    assert len(connections.made) == 1


async def test_a_replay_that_gets_nowhere_gives_its_connection_up(connections: Connections) -> None:
    now_s = iter(range(1000))
    replayer = Replayer(MeshSettings(partitions=1), Service.GATEWAY, clock=lambda: next(now_s))
    await replayer.start()
    connections.made[0].mute = True
    with pytest.raises(BrokerUnavailableError, match="no record came"):
        await replayer.replay(EVENTS, ID)
    assert len((await replayer.replay(EVENTS, ID)).records) == 2


async def test_a_client_that_leaves_while_a_replay_connects_breaks_nothing(connections: Connections) -> None:
    """The client's own task is the one that connects."""
    replayer = Replayer(MeshSettings(partitions=1), Service.GATEWAY)
    connections.answers.clear()
    leaving = asyncio.create_task(replayer.replay(EVENTS, ID))
    while not connections.made:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    connections.answers.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert len((await replayer.replay(EVENTS, ID)).records) == 2
    assert [made.closed for made in connections.made] == [True, False]
