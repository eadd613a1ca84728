"""The control plane through FastStream: `context.requested` and `history.queries`."""

import asyncio
import logging

from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker

from services.history.intake import RecordHandler
from services.history.ports import Outbox, Ports
from services.history.settings import HistorySettings
from services.history.subscription import Subscription
from shared.errors import BrokerUnavailableError
from shared.log.clients import client_options
from shared.topics import CONTEXT, HISTORY_QUERIES

TOPICS = (CONTEXT, HISTORY_QUERIES)

HAND_OVER_S = 0.5
"""Nearly every request takes milliseconds. One that waits for its parent's end waits as well at another replica, and
while this one stays in the group without taking anything, nobody takes what comes to its partitions."""


class ControlPlane:
    """The subscriptions of the control plane, over one broker object."""

    def __init__(self, settings: HistorySettings, ports: Ports, outbox: Outbox) -> None:
        self._broker = KafkaBroker(
            **client_options(settings),
            consumer_only=True,
            allow_auto_create_topics=False,
            logger=_faststream_log(),
            apply_types=False,
        )
        self._subscriptions = [
            Subscription(self._broker, settings, topic, RecordHandler(topic, ports, outbox)) for topic in TOPICS
        ]

    async def start(self) -> None:
        """Join the groups. Raises BrokerUnavailableError."""
        try:
            # Side by side, unlike `broker.start()`: a broker lets each new group wait seconds for more members.
            await self._broker.connect()
            await asyncio.gather(*(subscription.start() for subscription in self._subscriptions))
        except KafkaError as error:
            await self._broker.stop()
            raise BrokerUnavailableError(f"cannot read the control plane: {type(error).__name__} {error}") from error

    async def stop(self) -> None:
        """Let what runs end, for HAND_OVER_S at most, then leave the groups: the rest is another replica's."""
        await asyncio.gather(*(subscription.intake.close(HAND_OVER_S) for subscription in self._subscriptions))
        await self._broker.stop()

    async def watch(self) -> None:
        """Returns never; heals what stands still, raises what no retry can mend."""
        await asyncio.gather(*(subscription.watch() for subscription in self._subscriptions))


def _faststream_log() -> logging.Logger:
    """Without a logger FastStream keeps the errors of its polling loop to itself; its warnings are about defaults."""
    logger = logging.getLogger("faststream.history")
    logger.setLevel(logging.ERROR)
    return logger
