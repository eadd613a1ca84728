"""A coordinator that does not know what a group committed is not one that knows of nothing, and who leaves a group
waits for the answers to its commits."""

import asyncio
import gc
from typing import Any

import aiokafka.consumer.consumer
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    NotCoordinatorForGroupError,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse_v3
from aiokafka.structs import OffsetAndMetadata

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


class SilentNode:
    """Takes commits and answers none, until its connection is lost."""

    def __init__(self) -> None:
        self.asked, self.lost = asyncio.Event(), asyncio.Event()

    async def send(self, _node: int, request: Any, **_options: Any) -> None:
        assert isinstance(request, OffsetCommitRequest)
        self.asked.set()
        await self.lost.wait()
        raise KafkaConnectionError("the connection is lost")


async def closed_behind_a_commit(kind: type[GroupCoordinator]) -> tuple[bool, list[str]]:
    """A member's commit is cut off, and it leaves: whether it waited for the commit, and what asyncio complains of."""
    node, complaints = SilentNode(), list[str]()
    consumer, loop = make_consumer(MeshSettings(), group="g"), asyncio.get_running_loop()
    consumer._client.send = node.send
    coordinator = kind(consumer._client, consumer._subscription, group_id="g", retry_backoff_ms=0)
    coordinator.coordinator_id, before = 1, loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    try:
        committing = asyncio.create_task(coordinator.commit_offsets(None, {P0: OffsetAndMetadata(1, "")}))
        await node.asked.wait()
        committing.cancel()
        await asyncio.wait([committing])
        closing = asyncio.create_task(coordinator.close())
        await _turns()
        waited = not closing.done()
        node.lost.set()
        await closing
        await _turns()
        gc.collect()
    finally:
        loop.set_exception_handler(before)
        await consumer.stop()
    return waited, complaints


async def _turns() -> None:
    """What needs nobody but the event loop is done."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_who_leaves_waits_for_a_commit_whose_asker_was_cancelled() -> None:
    assert await closed_behind_a_commit(Coordinator) == (True, [])


async def test_aiokafka_still_leaves_before_it() -> None:
    """Where this fails, `Coordinator.close` is needed no more."""
    assert await closed_behind_a_commit(GroupCoordinator) == (False, ["Task exception was never retrieved"])
