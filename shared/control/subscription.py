"""One topic of the control plane: FastStream's subscriber, the intake behind it, and a watch that it goes on.

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
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER

from shared.control.intake import Intake
from shared.log.access import FORBIDDEN, forbidden
from shared.log.clients import MAX_REQUEST_BYTES, close_consumer, group_name, topic_name, uninterrupted, until_opened
from shared.log.meters import ReaderMeter
from shared.log.tail import RawRecord, raw
from shared.log.watching import REJOINED_AFTER_S, STALLED_AFTER_S, StalledError, Watch
from shared.settings import MeshSettings
from shared.telemetry.metrics import Metrics
from shared.topics import CONTROL_GROUPS, Service, Topic, assert_may_consume

log = logging.getLogger(__name__)


class Subscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A service's place in the group that shares `topic`: up to `max_in_flight` records are handled at once. `heals`
    counts how often the place was taken anew."""

    def __init__(
        self,
        broker: KafkaBroker,
        settings: MeshSettings,
        service: Service,
        topic: Topic,
        handle: Callable[[RawRecord], Awaitable[None]],
        *,
        max_in_flight: int,
        look_every_s: float = STALLED_AFTER_S,
        group: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        assert_may_consume(topic, service)
        group = group or CONTROL_GROUPS[topic.name].name
        self.heals = 0
        self._settings = settings
        self._meter = ReaderMeter(metrics, topic, group)
        self._name = topic_name(settings, topic)
        self._what = f"read {self._name} as {group}"
        self._commit_timeout_s = settings.request_timeout_ms / 1000
        self._look_every_s = look_every_s
        self._watched: Watch | None = None
        self.intake = Intake(handle, self._commit, max_in_flight)
        self._subscriber = broker.subscriber(
            self._name,
            ack_policy=AckPolicy.MANUAL,
            group_id=group_name(settings, group),
            auto_offset_reset="earliest",
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            listener=self,
            parser=_parse,
            decoder=_decode,
        )
        self._subscriber(self._take)

    @property
    def consumer(self) -> AIOKafkaConsumer | None:
        """aiokafka's consumer of the moment; None outside the group."""
        return self._subscriber.consumer

    async def start(self) -> None:
        """Join the group. Raises KafkaError, TimeoutError."""
        await self._joined()
        self._meter.watch(lambda: self.consumer)

    async def _joined(self) -> AIOKafkaConsumer:
        """One attempt, of which nothing stays open where it fails. Raises KafkaError, TimeoutError."""
        try:
            async with asyncio.timeout(REJOINED_AFTER_S):
                await uninterrupted(self._subscriber.start())
        except BaseException:
            await self.leave()
            raise
        self._watched = Watch(self.consumer)
        return self.consumer

    async def leave(self) -> None:
        """Leave the group, also where the consumer is broken: of one whose fetcher died, FastStream's `stop()` would
        raise why, and leave the rest of it open."""
        consumer, self._subscriber.consumer = self._subscriber.consumer, None
        self._watched = None
        await self._subscriber.stop()
        if consumer is not None:
            await close_consumer(consumer)

    async def _take(self, raw: RawRecord) -> None:
        self._meter.read(1)
        await self.intake.take(raw)

    async def watch(self) -> None:
        """Heal for ever: aiokafka can stand still without a word (`shared.log.watching`), and FastStream trusts it.

        Raises what handling raised that no retry can mend, AccessDeniedError.
        """
        while not self.intake.failure.done():
            await asyncio.wait([self.intake.failure], timeout=self._look_every_s)
            try:
                await self._look()
            except StalledError as error:
                await self._heal(error)
            except FORBIDDEN as error:
                raise forbidden(self._settings, self._what, error) from error
        self.intake.failure.result()

    async def _look(self) -> None:
        consumer, watched = self.consumer, self._watched
        if consumer is None or watched is None:
            return
        if self.intake.full or consumer._subscription.reassignment_in_progress:
            watched.forget()
        else:
            await watched.look()

    async def _heal(self, error: Exception) -> None:
        self.heals += 1
        self._meter.healed()
        log.warning("%s is joined anew: %s", self._name, error)
        await self.leave()
        self.intake.forget_all()
        await until_opened(self._settings, self._what, self._joined)

    async def _commit(self, partition: int, next_offset: int) -> None:
        """What cannot be committed is delivered again, to us or to whose the partition is now; that does no harm."""
        consumer = self.consumer
        if consumer is None:
            return
        try:
            # aiokafka would try for as long as the broker is away, and every other commit waits behind this one.
            async with asyncio.timeout(self._commit_timeout_s):
                await consumer.commit({TopicPartition(self._name, partition): OffsetAndMetadata(next_offset, "")})
        except (CommitFailedError, IllegalStateError) as error:
            log.info("%s/%d is no longer ours: %s", self._name, partition, error)
        except (KafkaError, TimeoutError) as error:
            log.warning("commit to %s/%d failed: %s %s", self._name, partition, type(error).__name__, error)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """A rebalance takes everything away first; what comes back begins at the committed offset again."""
        self.intake.forget([where.partition for where in revoked])

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Records come by themselves."""


async def _parse(record: ConsumerRecord[Any, Any]) -> KafkaMessage:
    return KafkaMessage(body=b"", raw_message=record, consumer=FAKE_CONSUMER)


async def _decode(message: KafkaMessage) -> RawRecord:
    return raw(message.raw_message)
