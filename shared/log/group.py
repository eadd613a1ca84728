"""Consuming as a member of a group: assignments come and go, offsets are committed by hand."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from shared.errors import BrokerUnavailableError, LogError
from shared.log.access import FORBIDDEN, forbidden, raise_if_locked_out, trouble
from shared.log.clients import RECONNECT_S, close_consumer, make_consumer, topic_name
from shared.log.meters import ReaderMeter
from shared.log.tail import RawRecord, raw
from shared.log.watching import HOPELESS, REJOINED_AFTER_S, Poller, StalledError
from shared.settings import KafkaSettings
from shared.telemetry.metrics import Metrics
from shared.topics import Service, Topic, assert_may_consume

log = logging.getLogger(__name__)

_POLL_MS = 200

PartitionsChanged = Callable[[list[int]], Awaitable[None]]


class GroupConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
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
        self._adopted: AIOKafkaConsumer | None = None
        self._poller: Poller

    def _made(self) -> AIOKafkaConsumer:
        return make_consumer(
            self._settings,
            group=self._group,
            auto_offset_reset="earliest",
            # The sticky assignor of aiokafka is broken (aio-libs/aiokafka#1175, #1176).
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

    def _adopt(self, consumer: AIOKafkaConsumer) -> None:
        self._adopted = consumer
        self._poller = Poller(consumer)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        """Made by `start`: aiokafka complains of one that was made and never started, that it is not closed."""
        if self._adopted is None:
            raise RuntimeError("start comes first")
        return self._adopted

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
        try:
            await self._join()
        except KafkaError as error:
            await close_consumer(self._consumer)
            raise await trouble(self._settings, f"read {self._name} as {self._group}", error) from error
        self._meter.watch(lambda: self._adopted)
        if self._introduction is not None:
            await asyncio.wait([self._introduction])

    async def _join(self) -> None:
        self._adopt(self._made())
        self._consumer.subscribe([self._name], listener=self)
        await self._consumer.start()

    async def stop(self) -> None:
        """Leave the group at once, so that the others take over without waiting for the session to expire."""
        self._meter.leave()
        await self._end_introduction()
        await self._end_commits()
        if self._adopted is not None:
            await close_consumer(self._adopted)

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        """Batches in log order per partition, until cancelled, also over outages of the broker.

        Raises AccessDeniedError and BrokerUnavailableError for what no new connection mends, and what `on_assigned` or
        `on_revoked` raised.
        """
        while True:
            self._raise_failure()
            try:
                found = await self._poller.poll(_POLL_MS)
            except HOPELESS as error:
                raise await trouble(self._settings, f"read {self._name} as {self._group}", error) from error
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
        await self._give_up()
        await self._end_commits()
        await close_consumer(self._consumer)
        while True:
            await self._give_up()  # what a rebalance gave while the member left
            try:
                async with asyncio.timeout(REJOINED_AFTER_S):
                    await self._join()
            except (KafkaError, TimeoutError):
                await close_consumer(self._consumer)
                await raise_if_locked_out(self._settings)
                await asyncio.sleep(RECONNECT_S)
            else:
                return

    async def _give_up(self) -> None:
        await self.on_partitions_revoked({TopicPartition(self._name, number) for number in self._held})

    def seek(self, partition: int, offset: int) -> None:
        """Go on at `offset`; a no-op if the partition has just been taken away."""
        if partition in self._held:
            self._consumer.seek(TopicPartition(self._name, partition), offset)

    async def position(self, partition: int) -> int:
        """The offset of the next record that `batches()` will give of the partition. Raises LogError."""
        async with self._bounded(f"find the position in {self._name}/{partition}"):
            return int(await self._consumer.position(TopicPartition(self._name, partition)))

    async def end_offset(self, partition: int) -> int:
        """The offset that the next record appended to the partition will get. Raises LogError."""
        where = TopicPartition(self._name, partition)
        async with self._bounded(f"find the end of {self._name}/{partition}"):
            return int((await self._consumer.end_offsets([where]))[where])

    async def committed(self, partition: int) -> tuple[int, str] | None:
        """Where a successor must start, and the note beside it: "" where the broker keeps none, as the embedded one.

        None if nothing is committed. Raises LogError.
        """
        where = TopicPartition(self._name, partition)
        async with self._bounded(f"find what is committed to {self._name}/{partition}"):
            # `committed()` leaves the metadata out; this is what it asks itself.
            found = (await self._consumer._coordinator.fetch_committed_offsets([where])).get(where)
        return (int(found.offset), str(found.metadata or "")) if found is not None and found.offset >= 0 else None

    async def commit(self, partition: int, next_offset: int, note: str = "") -> bool:
        """Commit where a successor must start, and a note to it, of at most 4 KB (`offset.metadata.max.bytes`).

        False if the partition is no longer ours; raises LogError.
        """
        where = TopicPartition(self._name, partition)
        async with self._bounded(f"commit to {self._name}/{partition}"):
            # A commit that was given up goes on in aiokafka, and must not arrive behind a later one.
            if (unfinished := self._commits.get(partition)) is not None:
                await asyncio.wait([unfinished])
            commit = self._consumer.commit({where: OffsetAndMetadata(next_offset, note)})
            self._commits[partition] = task = asyncio.create_task(commit, name=f"commit {self._name}/{partition}")
            task.add_done_callback(lambda done: self._committed(partition, done))
            try:
                await asyncio.shield(task)
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

    # -- aiokafka's hooks: what they raise would only be logged, and the members would wait for us ---------------

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Eager rebalances revoke everything; what comes back is assigned anew."""
        await self._end_introduction()
        gone = sorted(p.partition for p in revoked)
        self._held.difference_update(gone)
        if gone and self._on_revoked is not None:
            try:
                await self._on_revoked(gone)
            except Exception as error:  # noqa: BLE001 - raised where the service waits
                self._failure = error

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Fetching starts at once: the pause keeps records back of which `on_assigned` has not been told yet.

        `on_assigned` runs beside: aiokafka sends no heartbeat before this hook returns, so that a member which needs
        longer than the session timeout would be thrown out, again and again.
        """
        self._generation = self._consumer._coordinator.generation  # aiokafka has no public name for it
        self._held = {p.partition for p in assigned}
        if self._held and self._on_assigned is not None:
            self._consumer.pause(*assigned)
            self._introduction = asyncio.create_task(
                self._introduce(self._consumer, assigned, self._on_assigned), name=f"assigned {self._name}"
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
