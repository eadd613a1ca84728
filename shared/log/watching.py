"""Noticing a consumer that stands still although its tasks live.

aiokafka can stop reading without a word: after a rejoin (aio-libs/aiokafka#847, #1037), when its fetcher's task died
(`getmany` never looks at it), when its metadata task died. So positions are held against the ends of the partitions,
and whoever reads heals: with a new consumer, from the next offset on.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

STALLED_AFTER_S = 5.0
"""A partition whose position stands for so long, of waiting for records, below an end that was known before."""
REJOINED_AFTER_S = 30.0
"""No rebalance takes longer: aiokafka's own rebalance timeout."""
UNANSWERED_LOOKS = 3
"""So many looks in a row that nobody answers: the broker is away, or this client can reach it no more."""
_LOOK_TIMEOUT_S = 5.0
_POSITION_TIMEOUT_S = 0.2

HOPELESS = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    CorruptRecordException,
    UnsupportedCodecError,
)
"""What another consumer would meet as well."""

Positions = Mapping[TopicPartition, int | None]


class StalledError(Exception):
    """The consumer stands still; the message says where. Whoever reads must go on with a new one."""


class Standstill:
    """Judges positions against ends, look by look. Pure."""

    def __init__(self) -> None:
        self._behind: dict[TopicPartition, int | None] = {}

    def judge(self, positions: Positions, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """The partitions that were behind their end at the last look already and have not moved since.

        A position of None is not known, although the consumer had time to find it.
        """
        stalled = [where for where, at in positions.items() if where in self._behind and self._behind[where] == at]
        self._behind = {where: at for where, at in positions.items() if at is None or at < ends.get(where, 0)}
        return stalled

    def forget(self) -> None:
        """What was seen counts no more: the partitions changed, or nobody could look."""
        self._behind = {}


class Watch:
    """Looks, from time to time, whether a consumer stands still. Each look is judged against the one before."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._standstill = Standstill()
        self._unanswered = 0

    def forget(self) -> None:
        """What was seen counts no more: nothing could move meanwhile, and that was no fault."""
        self._standstill.forget()

    async def look(self) -> None:
        """Raises StalledError where it stands still, TopicAuthorizationFailedError for a topic that it may not see."""
        partitions = self._consumer.assignment() - self._consumer.paused()
        if not partitions:
            self._standstill.forget()
            return
        # Of a topic that this client may not even see, `getmany` says nothing, and asks again for ever.
        if unseen := {where.topic for where in partitions} & self._consumer._client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(*sorted(unseen))
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                ends = await self._consumer.end_offsets(list(partitions))
        except (KafkaError, TimeoutError) as error:
            self._not_answered(error)
            return
        self._unanswered = 0
        positions = {where: await self._position(where) for where in partitions}
        if stalled := self._standstill.judge(positions, ends):
            where = ", ".join(f"{p.partition} at {positions[p]} below {ends[p]}" for p in sorted(stalled))
            raise StalledError(f"partitions stand still: {where}")

    async def _position(self, where: TopicPartition) -> int | None:
        try:
            async with asyncio.timeout(_POSITION_TIMEOUT_S):
                return int(await self._consumer.position(where))
        except (KafkaError, TimeoutError):
            return None  # taken away meanwhile, or not found yet: the next look shows which

    def _not_answered(self, error: Exception) -> None:
        self._standstill.forget()
        self._unanswered += 1
        if self._unanswered >= UNANSWERED_LOOKS:
            raise StalledError(f"nobody answers: {type(error).__name__}") from error


class Poller:
    """Polls `consumer`, and looks after every STALLED_AFTER_S of waiting whether it stands still.

    Only time spent in waiting counts: records that lie ready because the reader is busy do not make a standstill.
    """

    def __init__(self, consumer: AIOKafkaConsumer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._clock = clock
        self._waited_s = 0.0
        self._watch = Watch(consumer)

    async def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        """The next records, none after `timeout_ms`. Raises StalledError, KafkaError."""
        if self._waited_s >= STALLED_AFTER_S:
            self._waited_s = 0.0
            await self._watch.look()
        began = self._clock()
        try:
            # During a rebalance `getmany` waits for its end, whatever its timeout says. Nothing is lost by cancelling
            # it: records leave the consumer only where it returns.
            async with asyncio.timeout(REJOINED_AFTER_S):
                found: dict[TopicPartition, list[Any]] = await self._consumer.getmany(timeout_ms=timeout_ms)
        except TimeoutError as error:
            raise StalledError(f"no assignment came for {REJOINED_AFTER_S:g} s") from error
        self._waited_s += self._clock() - began
        return found
