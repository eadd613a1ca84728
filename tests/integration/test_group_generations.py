"""The group's generation ranks owners (DESIGN 6.1): each broker must make it grow with every change of hands."""

import asyncio
import uuid

from deploy.brokers import Broker
from shared.log import GroupConsumer, ensure_topics
from shared.settings import MeshSettings
from shared.topics import JOURNAL, Service

JOIN_S = 30.0


class Member:
    """One member that notes in which generation it was given which partitions."""

    def __init__(self, settings: MeshSettings) -> None:
        self.given: list[tuple[int, list[int]]] = []
        self.consumer = GroupConsumer(settings, Service.MODERATION, JOURNAL, "moderation", on_assigned=self._assigned)

    async def _assigned(self, partitions: list[int]) -> None:
        self.given.append((self.consumer.generation, partitions))

    async def assigned(self, partitions: int) -> int:
        """The generation in which it holds so many partitions."""
        async with asyncio.timeout(JOIN_S):
            while not self.given or len(self.given[-1][1]) != partitions:
                await asyncio.sleep(0.02)
        return self.given[-1][0]


async def test_every_change_of_hands_is_a_later_generation(broker: Broker) -> None:
    settings = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap,
        namespace=f"g{uuid.uuid4().hex[:12]}.",
        partitions=2,
        session_timeout_ms=broker.capabilities.session_timeout_ms,
    )
    await ensure_topics(settings)
    first, second = Member(settings), Member(settings)
    await first.consumer.start()
    reading = [asyncio.create_task(_read(first.consumer))]
    try:
        alone = await first.assigned(2)
        await second.consumer.start()
        reading.append(asyncio.create_task(_read(second.consumer)))
        async with asyncio.timeout(JOIN_S):
            # On a busy machine a session may expire meanwhile, and one of them be a generation ahead.
            while (shared := await second.assigned(1)) != await first.assigned(1):
                await asyncio.sleep(0.02)
        assert shared > alone
        await first.consumer.stop()
        assert await second.assigned(2) > shared
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await second.consumer.stop()
        await first.consumer.stop()


async def _read(consumer: GroupConsumer) -> None:
    async for _ in consumer.batches():
        pass
