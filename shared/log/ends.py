"""Where partitions end while nobody reads them.

A fetch brings the end of its partition along, but aiokafka sends none for a partition whose records lie unread: a
reader that waits for its store would show the lag of the moment in which it began to wait.
"""

import asyncio
import logging
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.futures import error_of

log = logging.getLogger(__name__)

ASKED_EVERY_S = 10.0
_TIMEOUT_S = 5.0


class Ends:
    """Asks for the ends of what `consumer` is assigned, in a task of its own, until it is stopped."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.known: Mapping[TopicPartition, int] = {}
        self._consumer = consumer
        self._task = asyncio.create_task(self._ask_on(), name="ends")

    async def stop(self) -> None:
        """Ask no more: a question to a consumer that is closed would connect again."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if (error := error_of(self._task)) is not None:
            log.error("the ends of partitions were asked for no more", exc_info=error)

    async def _ask_on(self) -> None:
        while True:
            await asyncio.sleep(ASKED_EVERY_S)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    self.known = await self._consumer.end_offsets(list(self._consumer.assignment()))
            except (KafkaError, TimeoutError, AssertionError) as error:  # asserted of partitions that it knows no more
                log.debug("nobody tells the ends of partitions: %s %s", type(error).__name__, error)
