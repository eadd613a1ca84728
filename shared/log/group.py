"""Consuming as a member of a group: assignments come and go, offsets are committed by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from shared.errors import BrokerUnavailableError, LogError
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import RawRecord, raw
from shared.settings import KafkaSettings
from shared.topics import Service, Topic, assert_may_consume

_POLL_MS = 200


PartitionsChanged = Callable[[list[int]], Awaitable[None]]


class GroupConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of one group over one topic.

    `on_revoked` runs before a rebalance takes partitions away (or when the member was fenced), `on_assigned`
    after it gave them; both get only what changed hands. Uncommitted partitions start at the log's beginning.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        service: Service,
        topic: Topic,
        group: str,
        *,
        on_assigned: PartitionsChanged | None = None,
        on_revoked: PartitionsChanged | None = None,
    ) -> None:
        assert_may_consume(topic, service)
        self._settings = settings
        self._name = topic_name(settings, topic)
        self._group = group
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._held: set[int] = set()
        self._consumer = make_consumer(
            settings,
            group=group,
            auto_offset_reset="earliest",
            # The sticky assignor of aiokafka is broken (aio-libs/aiokafka#1175, #1176).
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

    @property
    def partitions(self) -> frozenset[int]:
        """What this member is assigned now."""
        return frozenset(self._held)

    @property
    def generation(self) -> int:
        """How often the group has been assigned anew, as of this member's last join.

        It grows with every rebalance, so whoever holds a partition in a later generation can prove it. -1 while this
        member is not in the group. aiokafka has no public name for it.
        """
        return int(self._consumer._coordinator.generation)

    async def start(self) -> None:
        """Join the group. Raises BrokerUnavailableError."""
        self._consumer.subscribe([self._name], listener=self)
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise BrokerUnavailableError(f"cannot read {self._name}: {type(error).__name__} {error}") from error

    async def stop(self) -> None:
        """Leave the group at once, so that the others take over without waiting for the session to expire."""
        await self._consumer.stop()

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        """Batches in log order per partition, until cancelled."""
        while True:
            found = await self._consumer.getmany(timeout_ms=_POLL_MS)
            if found:
                yield [raw(message) for messages in found.values() for message in messages]
            else:
                await asyncio.sleep(0)

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset`; a no-op if the partition has just been taken away."""
        if partition in self._held:
            self._consumer.seek(TopicPartition(self._name, partition), offset)

    async def position(self, partition: int) -> int:
        """The offset of the next record that `batches()` will give of the partition."""
        return int(await self._consumer.position(TopicPartition(self._name, partition)))

    async def end_offset(self, partition: int) -> int:
        """The offset that the next record appended to the partition will get."""
        where = TopicPartition(self._name, partition)
        return int((await self._consumer.end_offsets([where]))[where])

    async def commit(self, partition: int, next_offset: int) -> bool:
        """Commit where a successor must start. False if the partition is no longer ours; raises LogError."""
        position = {TopicPartition(self._name, partition): OffsetAndMetadata(next_offset, "")}
        try:
            await self._consumer.commit(position)
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as error:
            raise LogError(f"commit to {self._name}/{partition} failed: {error}") from error
        return True

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """aiokafka's hook. Eager rebalances revoke everything; what comes back is assigned anew."""
        gone = sorted(p.partition for p in revoked)
        self._held.difference_update(gone)
        if gone and self._on_revoked is not None:
            await self._on_revoked(gone)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """aiokafka's hook.

        Fetching starts while this hook still runs: without the pause, `batches()` would hand out records of
        partitions of which `on_assigned` has not been told yet.
        """
        numbers = sorted(p.partition for p in assigned)
        self._held = set(numbers)
        if numbers and self._on_assigned is not None:
            self._consumer.pause(*assigned)
            try:
                await self._on_assigned(numbers)
            finally:
                self._consumer.resume(*assigned)
