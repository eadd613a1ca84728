"""Records of the control plane, many at a time: bounded, retried, and committed only behind the oldest unfinished.

One request may wait seconds for its parent's end; the others must not wait with it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.history.errors import StoreError, StoreRefusedError
from services.history.handlers import HANDLERS, given_up, patience_s, too_late
from services.history.ports import Outbox, Outgoing, Ports
from services.history.retry import TRANSIENT, Patience
from services.history.watermark import Watermark
from shared.errors import RecordError, RecordRefusedError
from shared.log import RawRecord, decode
from shared.records import Record
from shared.records.codec import Envelope
from shared.telemetry import extract, names
from shared.topics import REPLIES, Topic

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

MAX_ATTEMPTS = 3
Commit = Callable[[int, int], Awaitable[None]]  # partition, next offset


class RecordHandler:
    """Takes one record of `topic` from bytes to its acknowledged answers; returns only when it needs no second try."""

    def __init__(self, topic: Topic, ports: Ports, outbox: Outbox) -> None:
        self._topic = topic
        self._ports = ports
        self._outbox = outbox
        self._handling = Patience(topic.name)
        self._sending = Patience(f"answers to {topic.name}")
        self._burying = Patience(f"dead-letter queue of {topic.name}")

    async def __call__(self, raw: RawRecord) -> None:
        """Raises StoreError when the store is unusable: then the service must end."""
        try:
            envelope = decode(self._topic, raw)
        except RecordError as error:
            await self._bury(raw, error, attempts=1)
            return
        with tracer.start_as_current_span(
            names.process(self._topic),
            context=extract(envelope.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(self._topic, "process", raw.partition, raw.offset),
        ):
            try:
                await self._send_all(await self._handle(raw, envelope))
            except RecordRefusedError as error:
                await self._send_all(await self._give_up(raw, envelope.record, error, attempts=1))

    async def _handle(self, raw: RawRecord, envelope: Envelope[Record]) -> list[Outgoing]:
        handler, record = HANDLERS[type(envelope.record)], envelope.record
        for attempt in range(1, MAX_ATTEMPTS + 1):
            timeout_s = patience_s(record, self._ports.clock_ms())
            try:
                return await self._handling.until_available(lambda: handler(record, self._ports), timeout_s=timeout_s)
            except TRANSIENT as error:
                return too_late(record, error)
            except StoreRefusedError as error:
                failure: Exception = error
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - a handler's bug must not block the records behind it
                failure = error
            log.error("%s at %s, attempt %d", self._topic.name, _place(raw), attempt, exc_info=failure)
        return await self._give_up(raw, record, failure, MAX_ATTEMPTS)

    async def _give_up(self, raw: RawRecord, record: Record, error: Exception, attempts: int) -> list[Outgoing]:
        await self._bury(raw, error, attempts)
        return await self._handling.until_available(lambda: given_up(record, self._ports))

    async def _send_all(self, outgoing: Collection[Outgoing]) -> None:
        """Answers go last: whoever has one may rely on the rest."""
        answers = [each for each in outgoing if each.topic is REPLIES]
        await asyncio.gather(*(self._send(each) for each in outgoing if each.topic is not REPLIES))
        await asyncio.gather(*(self._send(each) for each in answers))

    async def _send(self, outgoing: Outgoing) -> None:
        await self._sending.until_available(lambda: self._outbox.send(outgoing))

    async def _bury(self, raw: RawRecord, error: Exception, attempts: int) -> None:
        log.error("%s at %s cannot be handled: %s", self._topic.name, _place(raw), error)
        await self._burying.until_available(lambda: self._outbox.bury(self._topic, raw, error, attempts))


class Intake:
    """Runs up to `max_in_flight` handlers at once and commits behind the oldest unfinished record."""

    def __init__(self, handle: Callable[[RawRecord], Awaitable[None]], commit: Commit, max_in_flight: int) -> None:
        self._handle = handle
        self._commit = commit
        self._slots = asyncio.Semaphore(max_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watermarks: dict[int, Watermark] = {}
        self._committing = asyncio.Lock()
        self._closed = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self, raw: RawRecord) -> None:
        """Return once the record's handler has begun, which may wait for a slot. Once closed, takes nothing."""
        await self._slots.acquire()
        if self._closed:
            self._slots.release()
            return
        task = asyncio.create_task(self._run(raw, self._watermark(raw)), name=f"handle {_place(raw)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, partitions: Collection[int]) -> None:
        """The partitions were taken away: what still runs of them is no longer ours to commit.

        It may end all the same: what it appends a second time does not count (DESIGN 5).
        """
        for partition in partitions:
            self._watermarks.pop(partition, None)

    def forget_all(self) -> None:
        """The group was left."""
        self._watermarks.clear()

    @property
    def full(self) -> bool:
        """Whether the next record must wait for a slot."""
        return self._slots.locked()

    async def close(self, timeout_s: float) -> None:
        """Take nothing more and let what runs end; what has not after `timeout_s` is left to another replica."""
        self._closed = True
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _watermark(self, raw: RawRecord) -> Watermark:
        watermark = self._watermarks.get(raw.partition)
        if watermark is None or watermark.rewinds(raw.offset):
            watermark = self._watermarks[raw.partition] = Watermark(raw.offset, committed=raw.offset)
        watermark.take(raw.offset)
        return watermark

    async def _run(self, raw: RawRecord, watermark: Watermark) -> None:
        try:
            await self._handle(raw)
            watermark.done(raw.offset)
            await self._commit_behind(raw.partition, watermark)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits `failure`, which ends the service
            with contextlib.suppress(asyncio.InvalidStateError):
                self.failure.set_exception(error)
        finally:
            self._slots.release()

    async def _commit_behind(self, partition: int, watermark: Watermark) -> None:
        # One at a time: of two concurrent commits the lower might arrive last.
        async with self._committing:
            current = self._watermarks.get(partition) is watermark
            if current and watermark.position > watermark.committed:
                watermark.committed = position = watermark.position
                await self._commit(partition, position)


def _place(raw: RawRecord) -> str:
    return f"{raw.partition}@{raw.offset}"
