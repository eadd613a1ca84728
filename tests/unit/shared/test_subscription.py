"""A place in a group of the control plane: taken anew whatever broke, and nothing of the broken one left open."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError
from faststream.kafka import KafkaBroker

from shared.control import ControlPlane, Subscription
from shared.errors import AccessDeniedError, BrokerUnavailableError
from shared.log.clients import make_consumer
from shared.settings import MeshSettings
from shared.topics import HISTORY_QUERIES, Service

SETTINGS = MeshSettings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", request_timeout_ms=500)
P0 = TopicPartition(HISTORY_QUERIES.name, 0)


async def ignore(_record: object) -> None:
    """Handles everything."""


def subscription() -> Subscription:
    broker = KafkaBroker(SETTINGS.bootstrap_servers, consumer_only=True)
    return Subscription(broker, SETTINGS, Service.HISTORY, HISTORY_QUERIES, ignore, max_in_flight=4, look_every_s=0.01)


class Consumer:
    """As much of AIOKafkaConsumer as is looked at. It stands at the beginning of a partition with 9 records."""

    def __init__(self, *, stands: bool = True) -> None:
        self.closed = False
        self._at = 0 if stands else 9
        self._client = SimpleNamespace(cluster=SimpleNamespace(unauthorized_topics=set[str]()))
        self._subscription = SimpleNamespace(reassignment_in_progress=False)
        self._coordinator = SimpleNamespace(_coordination_task=True)

    def assignment(self) -> set[TopicPartition]:
        return {P0}

    def paused(self) -> set[TopicPartition]:
        return set()

    async def end_offsets(self, _partitions: object) -> dict[TopicPartition, int]:
        return {P0: 9}

    async def position(self, _partition: object) -> int:
        return self._at

    async def stop(self) -> None:
        self.closed = True


class Starts:
    """Stands in for the start of FastStream's subscriber: a consumer each time, and what the start then raises."""

    def __init__(self, taken: Subscription, outcomes: list[tuple[Consumer, Exception | None]]) -> None:
        self._subscriber: Any = taken._subscriber
        self._subscriber.start = self
        self._outcomes = iter(outcomes)

    async def __call__(self) -> None:
        self._subscriber.consumer, failure = next(self._outcomes)
        if failure is not None:
            raise failure


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def dead() -> AIOKafkaConsumer:
    """One whose fetcher died of what nobody foresaw."""

    def fail(_assignment: object) -> NoReturn:
        raise KeyError("what nobody foresaw")

    consumer = make_consumer(SETTINGS)
    consumer.assign([P0])
    consumer._fetcher = Fetcher(consumer._client, consumer._subscription)
    consumer._fetcher._get_actions_per_node = fail
    await asyncio.wait([consumer._fetcher._fetch_task])
    return consumer


async def test_who_stands_still_joins_anew_and_leaves_no_consumer_open() -> None:
    taken = subscription()
    consumers = [Consumer(), Consumer(), Consumer(stands=False)]
    Starts(taken, [(consumers[0], None), (consumers[1], KafkaConnectionError("away")), (consumers[2], None)])
    await taken.start()
    watching = asyncio.create_task(taken.watch())
    await until(lambda: taken.consumer is consumers[2])
    assert (taken.heals, watching.done()) == (1, False)
    assert [consumer.closed for consumer in consumers] == [True, True, False]
    watching.cancel()
    await taken.leave()
    assert consumers[2].closed


async def test_a_consumer_whose_fetcher_died_is_replaced() -> None:
    taken, fresh = subscription(), Consumer(stands=False)
    Starts(taken, [(await dead(), None), (fresh, None)])  # type: ignore[list-item]
    await taken.start()
    await taken._heal(Exception("it stands still"))
    assert taken.consumer is fresh


async def test_a_fetcher_that_died_does_not_keep_its_service_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = ControlPlane(SETTINGS, Service.HISTORY, [(HISTORY_QUERIES, ignore)], max_in_flight=4)
    (taken,) = plane._subscriptions
    taken._subscriber.consumer = broken = await dead()
    await plane.stop()
    assert broken._closed and taken.consumer is None


async def test_a_start_that_fails_leaves_no_consumer_open() -> None:
    plane = ControlPlane(SETTINGS, Service.HISTORY, [(HISTORY_QUERIES, ignore)], max_in_flight=4)
    consumer = Consumer()
    Starts(plane._subscriptions[0], [(consumer, KafkaConnectionError("away"))])
    with pytest.raises(BrokerUnavailableError):
        await plane.start()
    assert consumer.closed


async def test_a_right_that_was_withdrawn_meanwhile_is_not_waited_for() -> None:
    taken = subscription()
    Starts(taken, [(Consumer(), None), (Consumer(), GroupAuthorizationFailedError("history"))])
    await taken.start()
    with pytest.raises(AccessDeniedError, match=r"read history\.queries"):
        await asyncio.wait_for(taken.watch(), 5)


@pytest.mark.parametrize("rebalancing", [True, False])
async def test_what_cannot_move_does_not_stand_still(rebalancing: bool) -> None:
    """During a rebalance, and while all slots are taken."""
    taken, consumer = subscription(), Consumer()
    consumer._subscription.reassignment_in_progress = rebalancing
    if not rebalancing:
        taken.intake._slots = asyncio.Semaphore(0)
    Starts(taken, [(consumer, None)])
    await taken.start()
    watching = asyncio.create_task(taken.watch())
    await asyncio.sleep(0.2)
    assert taken.heals == 0 and not watching.done()
    watching.cancel()
