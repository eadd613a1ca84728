"""How far consumer groups are, asked of the broker from outside: for operators, who join none of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from shared.log.admin import admin_client
from shared.log.clients import close_consumer, group_name, make_consumer, started, topic_name
from shared.settings import KafkaSettings
from shared.topics import Group, Topic

_NOTHING_COMMITTED = -1
_STATE, _MEMBERS = 2, 5  # where they stand in an answer to DescribeGroups


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """One group: its members now, the broker's word for its state, and for each partition the records it has not
    committed yet. Where nothing was ever committed, those are all that the log holds."""

    group: Group
    members: int
    state: str
    lag: dict[int, int]


class ProgressReader:
    """Asks again and again over one pair of connections. An async context manager; raises BrokerUnavailableError,
    AccessDeniedError."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer
        self._partitions: dict[str, list[TopicPartition]] = {}

    async def __aenter__(self) -> Self:
        what = f"read at {self._settings.bootstrap_servers}"
        self._consumer = await started(self._settings, what, make_consumer(self._settings), close_consumer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_consumer(self._consumer)

    async def read(self, groups: Iterable[Group]) -> list[GroupProgress]:
        """Where the groups stand now. Raises BrokerUnavailableError, AccessDeniedError."""
        wanted = list(groups)
        async with admin_client(self._settings) as admin:
            await self._find_partitions(admin, {group.topic.name: group.topic for group in wanted})
            ends, begins = await self._ends(wanted)
            return [await self._progress(admin, group, begins, ends) for group in wanted]

    async def _find_partitions(self, admin: AIOKafkaAdminClient, topics: dict[str, Topic]) -> None:
        """Once per topic. One that is not there is left out: asking for it by name could make it."""
        missing = {name: topic for name, topic in topics.items() if name not in self._partitions}
        unknown = {topic_name(self._settings, topic): name for name, topic in missing.items()}
        there = unknown.keys() & set(await admin.list_topics()) if unknown else set()
        for described in await admin.describe_topics(sorted(there)) if there else ():
            where, name = described["topic"], unknown[described["topic"]]
            self._partitions[name] = [TopicPartition(where, each["partition"]) for each in described["partitions"]]

    async def _ends(self, groups: list[Group]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        places = list({place for group in groups for place in self._partitions.get(group.topic.name, ())})
        if not places:
            return {}, {}
        return await self._consumer.end_offsets(places), await self._consumer.beginning_offsets(places)

    async def _progress(
        self,
        admin: AIOKafkaAdminClient,
        group: Group,
        begins: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> GroupProgress:
        places = self._partitions.get(group.topic.name, [])
        name = group_name(self._settings, group.name)
        # The embedded broker answers only who names the partitions.
        committed = await admin.list_consumer_group_offsets(name, partitions=places) if places else {}
        if missing := set(places) - committed.keys():  # else every place has an offset, if only -1
            raise GroupCoordinatorNotAvailableError(f"the coordinator of {name} does not know {sorted(missing)} yet")
        (answer,) = await admin.describe_consumer_groups([name])
        (described,) = answer.groups
        lag = {}
        for place in places:
            found = committed[place].offset
            first = begins[place] if found == _NOTHING_COMMITTED else found
            lag[place.partition] = max(0, ends[place] - first)  # the embedded broker understates ends
        return GroupProgress(group, len(described[_MEMBERS]), described[_STATE], lag)
