"""The control plane through FastStream: `context.requested` and `history.queries`.

FastStream polls, rebalances and describes the subscribers; our codec decodes, our writer answers, because both ask
the topic registry. What is set here, and why:

* `AckPolicy.MANUAL`: its other policies commit before handling, or commit every position of the consumer with each
  ack (ag2ai/faststream#2618), so that a failed record is skipped. `Intake` commits behind the oldest unfinished one.
* a parser of our own: the default one raises on a header that is not UTF-8, and a record whose parsing raises is lost.
* no batches: `Intake` makes its own concurrency, and the batch subscriber sleeps after each empty poll.
* no telemetry middleware: one span per request is made by the handler.
"""

import asyncio
import logging
from typing import Any

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER

from services.history.intake import Intake, RecordHandler
from services.history.ports import Outbox, Ports
from services.history.settings import HistorySettings
from shared.errors import BrokerUnavailableError
from shared.log.clients import MAX_REQUEST_BYTES, client_options, group_name, topic_name
from shared.log.tail import RawRecord, raw
from shared.topics import CONTEXT, HISTORY_QUERIES, Service, Topic, assert_may_consume

log = logging.getLogger(__name__)

TOPICS = (CONTEXT, HISTORY_QUERIES)

HAND_OVER_S = 0.5
"""Nearly every request takes milliseconds. One that waits for its parent's end waits as well at another replica, and
while this one stays in the group without taking anything, nobody takes what comes to its partitions."""


class ControlPlane:
    """The subscribers of the control plane and the intakes behind them."""

    def __init__(self, settings: HistorySettings, ports: Ports, outbox: Outbox) -> None:
        self._settings = settings
        self._commit_timeout_s = settings.request_timeout_ms / 1000
        self._broker = KafkaBroker(
            **client_options(settings),
            consumer_only=True,
            allow_auto_create_topics=False,
            logger=_faststream_log(),
            apply_types=False,
        )
        self._intakes = [self._subscribe(topic, RecordHandler(topic, ports, outbox)) for topic in TOPICS]

    async def start(self) -> None:
        """Join the groups. Raises BrokerUnavailableError."""
        try:
            # Side by side, unlike `broker.start()`: a broker lets each new group wait seconds for more members.
            await self._broker.connect()
            await asyncio.gather(*(subscriber.start() for subscriber in self._broker.subscribers))
        except KafkaError as error:
            await self._broker.stop()
            raise BrokerUnavailableError(f"cannot read the control plane: {type(error).__name__} {error}") from error

    async def stop(self) -> None:
        """Let what runs end, for HAND_OVER_S at most, then leave the groups: the rest is another replica's."""
        await asyncio.gather(*(intake.close(HAND_OVER_S) for intake in self._intakes))
        await self._broker.stop()

    async def failed(self) -> None:
        """Returns never; raises what no retry can mend."""
        await asyncio.gather(*(intake.failure for intake in self._intakes))

    def _subscribe(self, topic: Topic, handle: RecordHandler) -> Intake:
        assert_may_consume(topic, Service.HISTORY)
        name = topic_name(self._settings, topic)

        async def commit(partition: int, next_offset: int) -> None:
            await _commit(subscriber.consumer, TopicPartition(name, partition), next_offset, self._commit_timeout_s)

        intake = Intake(handle, commit, self._settings.max_in_flight)
        subscriber = self._broker.subscriber(
            name,
            ack_policy=AckPolicy.MANUAL,
            group_id=group_name(self._settings, f"history.{topic.name}"),
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_max_wait_ms,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=self._settings.heartbeat_interval_ms,
            listener=_Revocations(intake),
            parser=_parse,
            decoder=_decode,
        )
        subscriber(intake.take)
        return intake


class _Revocations(ConsumerRebalanceListener):  # type: ignore[misc]
    """A rebalance takes everything away first; what comes back begins at the committed offset again."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._intake.forget([where.partition for where in revoked])

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Records come by themselves."""


def _faststream_log() -> logging.Logger:
    """Without a logger FastStream keeps the errors of its polling loop to itself; its warnings are about defaults."""
    logger = logging.getLogger("faststream.history")
    logger.setLevel(logging.ERROR)
    return logger


async def _parse(record: ConsumerRecord[Any, Any]) -> KafkaMessage:
    return KafkaMessage(body=b"", raw_message=record, consumer=FAKE_CONSUMER)


async def _decode(message: KafkaMessage) -> RawRecord:
    return raw(message.raw_message)


async def _commit(consumer: Any, where: TopicPartition, next_offset: int, timeout_s: float) -> None:
    """What cannot be committed is delivered again, to us or to whom the partition belongs now; that does no harm."""
    try:
        # aiokafka would try for as long as the broker is away, and every other commit waits behind this one.
        async with asyncio.timeout(timeout_s):
            await consumer.commit({where: OffsetAndMetadata(next_offset, "")})
    except (CommitFailedError, IllegalStateError) as error:
        log.info("%s/%d is no longer ours: %s", where.topic, where.partition, error)
    except (KafkaError, TimeoutError) as error:
        log.warning("commit to %s/%d failed: %s %s", where.topic, where.partition, type(error).__name__, error)
