"""How far groups are, by a broker that knows and by one that does not know yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata

from shared.log.progress import ProgressReader
from shared.settings import MeshSettings
from shared.topics import OWNERS

NAME = OWNERS.topic.name
P0, P1 = TopicPartition(NAME, 0), TopicPartition(NAME, 1)


class Broker:
    """As much of aiokafka's consumer and admin client as the reader uses; `committed` is what it knows of the group."""

    def __init__(self) -> None:
        self.committed: dict[TopicPartition, OffsetAndMetadata] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def list_topics(self) -> list[str]:
        return [NAME]

    async def describe_topics(self, _names: list[str]) -> list[dict[str, Any]]:
        return [{"topic": NAME, "partitions": [{"partition": 0}, {"partition": 1}]}]

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 10)

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 2)

    async def list_consumer_group_offsets(
        self, _name: str, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return self.committed

    async def describe_consumer_groups(self, _names: list[str]) -> list[Any]:
        return [SimpleNamespace(groups=[(0, NAME, "Stable", "", "", ["a member"])])]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()

    @asynccontextmanager
    async def admin_client(_settings: MeshSettings) -> AsyncIterator[Broker]:
        yield broker

    monkeypatch.setattr("shared.log.progress.admin_client", admin_client)
    monkeypatch.setattr("shared.log.progress.make_consumer", lambda _settings: broker)
    monkeypatch.setattr("shared.log.progress.close_consumer", Broker.stop)
    return broker


async def test_what_was_never_committed_is_all_that_the_log_holds(known: Broker) -> None:
    known.committed = {P0: OffsetAndMetadata(7, ""), P1: OffsetAndMetadata(-1, "")}
    async with ProgressReader(MeshSettings()) as reader:
        (progress,) = await reader.read([OWNERS])
    assert (progress.members, progress.state, progress.lag) == (1, "Stable", {0: 3, 1: 8})


async def test_a_coordinator_that_does_not_know_is_not_taken_for_a_group_that_never_committed(known: Broker) -> None:
    """Apache Kafka then names no partition at all; aiokafka's admin client sees nothing else."""
    async with ProgressReader(MeshSettings()) as reader:
        with pytest.raises(GroupCoordinatorNotAvailableError, match="does not know"):
            await reader.read([OWNERS])
