"""The consumer with which a reader reads: only ever one that has started and that nobody has closed."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.log.clients import RECONNECT_S, close_consumer
from shared.log.ends import Ends
from shared.log.watching import Poller


class Reading:
    """Holds a consumer between its start and its end. Whoever asks meanwhile, between two of them, meets none: one that
    has not started knows nothing yet, and one that is closed would connect again."""

    def __init__(self) -> None:
        self.opened: AIOKafkaConsumer | None = None
        self._poller: Poller
        self._brought_records = False
        self._ends: Ends | None = None

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The one that is open. Raises RuntimeError where none is."""
        if self.opened is None:
            raise RuntimeError("no consumer is open: start comes first, and stop last")
        return self.opened

    @property
    def ends(self) -> Mapping[TopicPartition, int]:
        """The ends of its partitions as they were asked for last, from any thread."""
        ends = self._ends
        return ends.known if ends is not None else {}

    def holds(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether it is this one that is open."""
        return self.opened is consumer

    def adopt(self, consumer: AIOKafkaConsumer) -> None:
        """Go on with this one, which has started."""
        self.opened, self._poller, self._brought_records = consumer, Poller(consumer), False
        self._ends = Ends(consumer)

    async def forget(self) -> None:
        """Go on with none: whoever opened it closes it."""
        self.opened = None
        ends, self._ends = self._ends, None
        if ends is not None:
            await ends.stop()

    async def close(self) -> None:
        """Close the consumer, if there is one."""
        if (consumer := self.opened) is not None:
            await self.forget()
            await close_consumer(consumer)

    async def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        """As `Poller.poll`."""
        found = await self._poller.poll(timeout_ms)
        self._brought_records = self._brought_records or bool(found)
        return found

    async def pause(self) -> None:
        """Wait RECONNECT_S before the next one is opened if the last one brought nothing: what broke it may break all
        that follow, as fast as they connect."""
        if not self._brought_records:
            await asyncio.sleep(RECONNECT_S)
