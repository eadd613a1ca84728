"""A coordinator that does not know what a group committed is not one that knows of nothing."""

from typing import Any

import aiokafka.consumer.consumer
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3

from shared.log.clients import make_consumer
from shared.log.mended.coordination import Coordinator
from shared.settings import MeshSettings

P0 = TopicPartition("t", 0)
COMMITTED = OffsetFetchResponse_v3(0, [("t", [(0, 42, "note", 0)])], 0)


class CoordinatorNode:
    """Gives these answers in turn, to who knows it as node 1."""

    def __init__(self, *answers: OffsetFetchResponse_v3) -> None:
        self.answers = list(answers)
        self.looked_up = 0

    async def send(self, node: int, request: Any, **_options: Any) -> OffsetFetchResponse_v3:
        assert node == 1 and isinstance(request, OffsetFetchRequest)
        return self.answers.pop(0)

    async def coordinator_lookup(self, *_args: Any) -> int:
        self.looked_up += 1
        return 1

    async def ready(self, *_args: Any, **_options: Any) -> bool:
        return True


async def committed(broker: CoordinatorNode, kind: type[GroupCoordinator] = Coordinator) -> dict[TopicPartition, Any]:
    """What a member of a group that asks this broker is told."""
    consumer = make_consumer(MeshSettings(), group="g")
    client = consumer._client
    client.send, client.coordinator_lookup, client.ready = broker.send, broker.coordinator_lookup, broker.ready
    coordinator = kind(client, consumer._subscription, group_id="g", retry_backoff_ms=0)
    coordinator._coordination_task.cancel()
    try:
        return dict(await coordinator.fetch_committed_offsets([P0]))
    finally:
        await consumer.stop()


def of_the_group(error_code: int) -> OffsetFetchResponse_v3:
    """As Apache Kafka 4.1 answers in version 3."""
    return OffsetFetchResponse_v3(0, [], error_code)


@pytest.mark.parametrize(
    ("error", "lookups"),
    [(GroupLoadInProgressError, 1), (NotCoordinatorForGroupError, 2), (GroupCoordinatorNotAvailableError, 2)],
)
async def test_who_does_not_know_yet_is_asked_again_and_who_will_not_know_is_left(
    error: type[Exception], lookups: int
) -> None:
    broker = CoordinatorNode(of_the_group(error.errno), COMMITTED)  # type: ignore[attr-defined]
    assert (await committed(broker))[P0].offset == 42
    assert broker.looked_up == lookups


async def test_what_no_question_mends_is_raised() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        await committed(CoordinatorNode(of_the_group(GroupAuthorizationFailedError.errno)))


async def test_a_group_that_committed_nothing_has_no_offset() -> None:
    assert await committed(CoordinatorNode(OffsetFetchResponse_v3(0, [("t", [(0, -1, "", 0)])], 0))) == {}


def test_consumers_ask_so() -> None:
    assert aiokafka.consumer.consumer.GroupCoordinator is Coordinator


async def test_aiokafka_still_takes_it_for_nothing() -> None:
    """Where this fails, `shared/log/mended/coordination.py` is needed no more."""
    assert await committed(CoordinatorNode(of_the_group(GroupLoadInProgressError.errno)), GroupCoordinator) == {}
