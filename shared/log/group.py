"""Consuming as a member of a group: assignments come and go, offsets are committed by hand."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from shared.errors import BrokerUnavailableError, LogError
from shared.log.access import FORBIDDEN, forbidden, trouble
from shared.log.clients import RECONNECT_S, close_consumer, make_consumer, opened, started, topic_name, until_opened
from shared.log.meters import ReaderMeter
from shared.log.reading import Reading
from shared.log.tail import RawRecord, raw
from shared.log.watching import HOPELESS, REJOINED_AFTER_S, StalledError
from shared.settings import KafkaSettings
from shared.telemetry.metrics import Metrics
from shared.topics import Service, Topic, assert_may_consume

log = logging.getLogger(__name__)

_POLL_MS = 200

PartitionsChanged = Callable[[list[int]], Awaitable[None]]
_Hook = Callable[[set[TopicPartition]], Awaitable[None]]


class GroupConsumer:
    """One member of one group over one topic.

    `on_revoked` runs before a rebalance takes partitions away (or when the member was fenced), `on_assigned`
    after it gave them; both get only what changed hands. Records come only after `on_assigned` has returned; where it
    raises LogError it is called again until it succeeds or the partitions are taken away. Uncommitted partitions start
    at the log's beginning. A consumer that stands still is replaced by a new member; `heals` counts how often.
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
        metrics: Metrics | None = None,
    ) -> None:
        assert_may_consume(topic, service)
        self.heals = 0
        self._settings = settings
        self._name = topic_name(settings, topic)
        self._group = group
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._meter = ReaderMeter(metrics, topic, group)
        self._held: set[int] = set()
        self._commits: dict[int, asyncio.Task[None]] = {}
        self._generation = 0
        self._introduction: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._what = f"read {self._name} as {group}"
        self._reading = Reading()
        self._member: AIOKafkaConsumer | None = None

    def _made(self) -> AIOKafkaConsumer:
        consumer = make_consumer(
            self._settings,
            group=self._group,
            auto_offset_reset="earliest",
            # The sticky assignor of aiokafka is broken (aio-libs/aiokafka#1175, #1176).
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        hooks = _Hooks(partial(self._given, consumer), partial(self._taken, consumer))
        consumer.subscribe([self._name], listener=hooks)
        self._member = consumer
        return consumer

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._reading.consumer

    @property
    def partitions(self) -> frozenset[int]:
        """What this member is assigned now."""
        return frozenset(self._held)

    @property
    def generation(self) -> int:
        """In which generation of the group this member was given what it holds. It grows with every rebalance, so
        that whoever held a partition before has a lower one."""
        return self._generation

    async def start(self) -> None:
        """Join the group; returns when `on_assigned` has. Raises BrokerUnavailableError, AccessDeniedError."""
        await started(self._settings, self._what, self._made(), self._leave)
        self._meter.watch(lambda: self._reading.opened, lambda: self._reading.ends)
        if self._introduction is not None:
            await asyncio.wait([self._introduction])

    async def stop(self) -> None:
        """Leave the group at once, so that the others take over without waiting for the session to expire."""
        self._meter.leave()
        self._member = None
        await self._end_introduction()
        await self._end_commits()
        await self._reading.close()

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        """Batches in log order per partition, until cancelled, also over outages of the broker.

        Raises AccessDeniedError and BrokerUnavailableError for what no new connection mends, and what `on_assigned` or
        `on_revoked` raised.
        """
        while True:
            self._raise_failure()
            try:
                found = await self._reading.poll(_POLL_MS)
            except HOPELESS as error:
                raise await trouble(self._settings, self._what, error) from error
            except (KafkaError, StalledError) as error:
                await self._heal(error)
                continue
            if found:
                records = [raw(message) for messages in found.values() for message in messages]
                self._meter.read(len(records))
                yield records
            else:
                await asyncio.sleep(0)

    async def each(self, handle: Callable[[list[RawRecord]], Awaitable[None]]) -> None:
        """Hand every batch to `handle`, one after the other, until cancelled. Raises what `batches` does."""
        async for batch in self.batches():
            await handle(batch)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _heal(self, error: Exception) -> None:
        """Give everything up and join anew, once the broker answers."""
        self.heals += 1
        self._meter.healed()
        log.warning("%s is joined anew for %s: %s", self._group, self._name, error)
        await self._leave(self._consumer)
        await self._reading.pause()
        await until_opened(self._settings, self._what, self._joined)

    async def _joined(self) -> AIOKafkaConsumer:
        """One attempt. Raises KafkaError, TimeoutError."""
        async with asyncio.timeout(REJOINED_AFTER_S):
            return await opened(self._made(), self._leave)

    async def _leave(self, consumer: AIOKafkaConsumer) -> None:
        """Give up what the group gave, while the consumer can still be asked; then close it."""
        self._member = None  # what a rebalance gives it from now on is nobody's
        try:
            await self._give_up()
        finally:
            await self._reading.forget()
            await self._end_commits()
            await close_consumer(consumer)

    async def _give_up(self) -> None:
        """Hand everything that is held to `on_revoked`."""
        await self._end_introduction()
        gone = sorted(self._held)
        self._held = set()
        if gone and self._on_revoked is not None:
            try:
                await self._on_revoked(gone)
            except Exception as error:  # noqa: BLE001 - raised where the service waits
                self._failure = error

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset`; a no-op if the partition has just been taken away."""
        if partition in self._held:
            self._consumer.seek(TopicPartition(self._name, partition), offset)

    async def position(self, partition: int) -> int:
        """The offset of the next record that `batches()` will give of the partition. Raises LogError."""
        async with self._asking(f"find the position in {self._name}/{partition}") as consumer:
            return int(await consumer.position(TopicPartition(self._name, partition)))

    async def end_offset(self, partition: int) -> int:
        """The offset that the next record appended to the partition will get. Raises LogError."""
        where = TopicPartition(self._name, partition)
        async with self._asking(f"find the end of {self._name}/{partition}") as consumer:
            return int((await consumer.end_offsets([where]))[where])

    async def committed(self, partition: int) -> tuple[int, str] | None:
        """Where a successor must start, and the note beside it: "" where the broker keeps none, as the embedded one.

        None if nothing is committed. Raises LogError.
        """
        where = TopicPartition(self._name, partition)
        async with self._asking(f"find what is committed to {self._name}/{partition}") as consumer:
            # `committed()` leaves the metadata out; this is what it asks itself.
            found = (await consumer._coordinator.fetch_committed_offsets([where])).get(where)
        return (int(found.offset), str(found.metadata or "")) if found is not None and found.offset >= 0 else None

    async def commit(self, partition: int, next_offset: int, note: str = "") -> bool:
        """Commit where a successor must start, and a note to it, of at most 4 KB (`offset.metadata.max.bytes`).

        False if the partition is no longer ours; raises LogError.
        """
        where = TopicPartition(self._name, partition)
        if (consumer := self._reading.opened) is None:
            return False
        async with self._bounded(f"commit to {self._name}/{partition}"):
            # A commit that was given up goes on in aiokafka, and must not arrive behind a later one.
            if (unfinished := self._commits.get(partition)) is not None:
                await asyncio.wait([unfinished])
            if not self._reading.holds(consumer):
                return False  # the member left meanwhile
            commit = consumer.commit({where: OffsetAndMetadata(next_offset, note)})
            self._commits[partition] = task = asyncio.create_task(commit, name=f"commit {self._name}/{partition}")
            task.add_done_callback(lambda done: self._committed(partition, done))
            await asyncio.wait([task])  # and not `shield`, which would let out that the member leaves as our cancel
            if task.cancelled():
                return False
            try:
                task.result()
            except (CommitFailedError, IllegalStateError):
                return False
        return True

    def _committed(self, partition: int, done: "asyncio.Task[None]") -> None:
        if self._commits.get(partition) is done:
            del self._commits[partition]
        if not done.cancelled():
            done.exception()  # who waited has it; who gave up said so

    async def _end_commits(self) -> None:
        unfinished = list(self._commits.values())
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[AIOKafkaConsumer]:
        if (consumer := self._reading.opened) is None:
            raise LogError(f"{what}: the group is being joined anew")
        async with self._bounded(what):
            yield consumer

    @asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        """aiokafka would try for as long as the broker is away."""
        timeout_s = self._settings.request_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            raise BrokerUnavailableError(f"{what}: no answer within {timeout_s:g} s") from error
        except FORBIDDEN as error:
            raise forbidden(self._settings, what, error) from error
        except KafkaError as error:
            raise LogError(f"{what} failed: {error}") from error

    # -- what the group gives and takes --------------------------------------------------------------------------

    def _is_member(self, consumer: AIOKafkaConsumer) -> bool:
        return self._member is consumer

    async def _taken(self, consumer: AIOKafkaConsumer, _revoked: set[TopicPartition]) -> None:
        """Eager rebalances revoke everything; what comes back is assigned anew."""
        if self._is_member(consumer):
            await self._give_up()

    async def _given(self, consumer: AIOKafkaConsumer, assigned: set[TopicPartition]) -> None:
        """Fetching starts at once: the pause keeps records back of which `on_assigned` has not been told yet.

        `on_assigned` runs beside: aiokafka sends no heartbeat before this hook returns, so that a member which needs
        longer than the session timeout would be thrown out, again and again.
        """
        if not self._is_member(consumer):
            return
        if not self._reading.holds(consumer):
            self._reading.adopt(consumer)  # its first assignment: it can be asked from now on
        self._generation = consumer._coordinator.generation  # aiokafka has no public name for it
        self._held = {p.partition for p in assigned}
        if self._held and self._on_assigned is not None:
            consumer.pause(*assigned)
            self._introduction = asyncio.create_task(
                self._introduce(consumer, assigned, self._on_assigned), name=f"assigned {self._name}"
            )

    async def _introduce(
        self, consumer: AIOKafkaConsumer, assigned: set[TopicPartition], on_assigned: PartitionsChanged
    ) -> None:
        numbers = sorted(p.partition for p in assigned)
        try:
            await _until_it_succeeds(lambda: on_assigned(numbers), f"taking over {self._name} {numbers}")
        except Exception as error:  # noqa: BLE001 - raised where the service waits
            self._failure = error
        else:
            consumer.resume(*assigned)

    async def _end_introduction(self) -> None:
        if self._introduction is not None:
            self._introduction.cancel()
            await asyncio.wait([self._introduction])
            self._introduction = None


class _Hooks(ConsumerRebalanceListener):  # type: ignore[misc]
    """What aiokafka calls for one consumer. What they raise would only be logged, and the members wait for them."""

    def __init__(self, assigned: _Hook, revoked: _Hook) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._assigned(assigned)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._revoked(revoked)


async def _until_it_succeeds(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Again while the log does not answer; says so once."""
    said = False
    while True:
        try:
            await work()
        except LogError as error:
            log.log(logging.DEBUG if said else logging.WARNING, "%s must wait: %s", what, error)
            said = True
            await asyncio.sleep(RECONNECT_S)
        else:
            return
