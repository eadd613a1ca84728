"""Signs of life: a thread that sends them, a pure view that judges them.

The sender is a thread with its own event loop and producer, because an engine's long prefill or a busy event
loop must not look like death; a stuck engine shows in the step counter instead (DESIGN 5.3).
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.errors import AppendError, BrokerUnavailableError, RecordError
from shared.log.outage import Outage
from shared.log.tail import Tail, decode
from shared.log.writer import LogWriter
from shared.records import Heartbeat
from shared.settings import MeshSettings
from shared.telemetry.metrics import Metrics
from shared.topics import HEARTBEATS, Party, Service

log = logging.getLogger(__name__)

_OUTAGES_KEPT = 16
"""Of the broker; older ones lie before everything that is judged."""


class Heart:
    """Sends one `Heartbeat` every `heartbeat_ms` from its own thread. `update()` may be called from any thread."""

    def __init__(
        self,
        settings: MeshSettings,
        service: Service,
        service_id: str,
        steps: Callable[[], int] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._service = service
        self._steps = steps
        self._beat = Heartbeat(service=service.value, id=service_id, state="starting", seq=0)
        self._lock = threading.Lock()
        self._unheard: list[Future[None]] = []  # by whom the next beat is awaited
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stop = threading.Event()
        self._failure: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; the silence tells the others. Blocks while a beat is on its way."""
        self._stop.set()
        self._hasten()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.request_timeout_ms / 1000)

    def update(self, **changes: Any) -> None:
        """Change what the next beat says: any field of `Heartbeat` but service, id and seq."""
        with self._lock:
            self._beat = msgspec.structs.replace(self._beat, **changes)

    @property
    def beat(self) -> Heartbeat:
        """What the last beat said, and the next one will unless it is updated. From any thread."""
        with self._lock:
            return self._beat

    async def announce(self, timeout_s: float, **changes: Any) -> bool:
        """`update`, but beat at once and return when the log has it; False if it has not after `timeout_s` seconds."""
        heard: Future[None] = Future()
        self.update(**changes)
        with self._lock:
            self._unheard.append(heard)
        self._hasten()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wrap_future(heard)
        except TimeoutError:
            return False
        return True

    def _hasten(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    def _next(self) -> tuple[Heartbeat, list[Future[None]]]:
        """The beat to send, and who waits for it."""
        with self._lock:
            steps = self._steps() if self._steps is not None else self._beat.steps
            self._beat = msgspec.structs.replace(self._beat, seq=self._beat.seq + 1, steps=steps)
            waiting, self._unheard = self._unheard, []
            return self._beat, waiting

    async def failed(self) -> None:
        """Returns never; raises what ended the beating: AccessDeniedError once the broker does not let this service
        beat, and whatever else nobody foresaw."""
        await asyncio.shield(asyncio.wrap_future(self._failure))

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except Exception as error:  # noqa: BLE001 -- `failed` raises it again, where it ends the service
            self._failure.set_exception(error)

    async def _send(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
        outage = Outage(log, f"heartbeats of {self._beat.id}")
        try:
            writer = await self._connected(outage)
            if writer is not None:
                beating = asyncio.create_task(self._beat_on(writer, outage))
                try:
                    await _first_to_end(beating, asyncio.create_task(writer.failed()))
                finally:
                    await writer.stop()
        finally:
            with self._lock:
                self._loop = None

    async def _connected(self, outage: Outage) -> LogWriter | None:
        """The writer once the broker answers, None if the service ends before."""
        while not self._stop.is_set():
            writer = LogWriter(self._settings, self._service, self._beat.id, metrics=self._metrics)
            try:
                await writer.start()
            except BrokerUnavailableError as error:
                outage.failed(error)
                await self._pause()
            else:
                return writer
        return None

    async def _beat_on(self, writer: LogWriter, outage: Outage) -> None:
        """One beat after the other. The one under way when the broker comes back arrives at once."""
        while not self._stop.is_set():
            beat, waiting = self._next()
            try:
                await writer.append(HEARTBEATS, beat)
            except AppendError as error:
                outage.failed(error)
                with self._lock:
                    self._unheard += waiting
            else:
                outage.over()
                _tell(waiting)
            await self._pause()

    async def _pause(self) -> None:
        """One interval, or until somebody wants the next beat at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.heartbeat_ms / 1000):
                await self._wake.wait()
        self._wake.clear()


async def _first_to_end(*tasks: asyncio.Task[None]) -> None:
    """Cancel the others then. Raises what it raised."""
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()


def _tell(waiting: list[Future[None]]) -> None:
    for heard in waiting:
        if heard.set_running_or_notify_cancel():
            heard.set_result(None)


@dataclass(frozen=True, slots=True)
class Member:
    """A service as its last beat shows it. `stepped_ms`: when its step counter last moved (the log's clock)."""

    beat: Heartbeat
    last_ms: int
    stepped_ms: int


@dataclass
class Cluster:
    """Who is alive, judged on the log's clock against the beats of others, never on one's own clock (DESIGN 5.3).

    If everybody falls silent, nobody is judged dead: the broker was away, and that time counts for nobody. Else the
    first one that is heard again would make all others look dead.
    """

    silent_after_ms: int
    members: dict[str, Member] = field(default_factory=dict)
    now_ms: int = 0
    _outages: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_OUTAGES_KEPT))

    def apply(self, beat: Heartbeat, timestamp_ms: int) -> bool:
        """Take a beat in. True if what others may decide on has changed: members, state, partitions, slots."""
        if self.now_ms and timestamp_ms - self.now_ms > self.silent_after_ms:
            self._outages.append((self.now_ms, timestamp_ms))
        self.now_ms = max(self.now_ms, timestamp_ms)
        before = self.members.get(beat.id)
        stepped = before is None or before.beat.steps != beat.steps
        self.members[beat.id] = Member(beat, timestamp_ms, timestamp_ms if stepped else before.stepped_ms)  # type: ignore[union-attr]
        return before is None or _essence(before.beat) != _essence(beat)

    def elapsed_ms(self, since_ms: int, until_ms: int | None = None) -> int:
        """How long it is from `since_ms` to `until_ms` (now), without the time in which nobody at all was heard.

        Both are times of the log's clock. Whoever could not speak must not be judged by that time.
        """
        until_ms = self.now_ms if until_ms is None else until_ms
        if not self._outages:
            return until_ms - since_ms
        lost_ms = sum(max(0, min(until_ms, end) - max(since_ms, start)) for start, end in self._outages)
        return until_ms - since_ms - lost_ms

    def forget_silent(self) -> list[Member]:
        """Remove and return the members that fell silent."""
        gone = [member for member in self.members.values() if not self._alive(member)]
        for member in gone:
            del self.members[member.beat.id]
        return gone

    def is_alive(self, service_id: str) -> bool:
        """Whether this service has been heard of lately."""
        member = self.members.get(service_id)
        return member is not None and self._alive(member)

    def alive(self, service: Service, *, ready: bool = False) -> list[Member]:
        """Living members of a service, by id; only those that take work, if `ready`."""
        return sorted(
            (
                m
                for m in self.members.values()
                if m.beat.service == service and self._alive(m) and (not ready or m.beat.state == "ready")
            ),
            key=lambda m: m.beat.id,
        )

    def _alive(self, member: Member) -> bool:
        return self.elapsed_ms(member.last_ms) <= self.silent_after_ms


def _essence(beat: Heartbeat) -> tuple[object, ...]:
    return (beat.state, beat.detail, beat.partitions, beat.slots_free, beat.slots_total, beat.claims, beat.model)


class ClusterWatcher:
    """Keeps a `Cluster` up to date from `service.heartbeats` and calls back on every change."""

    def __init__(self, settings: MeshSettings, reader: Party, *, metrics: Metrics | None = None) -> None:
        self.cluster = Cluster(int(settings.silent_after_s * 1000))
        self._tail = Tail(settings, reader, HEARTBEATS, skips_gone=True, metrics=metrics)
        self._callbacks: list[Callable[[Cluster], None]] = []
        self._task: asyncio.Task[None] | None = None

    def on_change(self, callback: Callable[[Cluster], None]) -> None:
        """Call `callback` on the event loop whenever members, states, partitions or slots changed."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Follow from now on."""
        await self._tail.start({0: None})
        self._task = asyncio.create_task(self._follow(), name="heartbeats")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._tail.stop()

    @property
    def task(self) -> "asyncio.Task[None]":
        """The following task: a service ends when it does."""
        assert self._task is not None, "start() first"
        return self._task

    async def _follow(self) -> None:
        async for batch in self._tail.batches():
            changed = False
            for record in batch:
                try:
                    envelope = decode(HEARTBEATS, record)
                except RecordError as error:
                    log.warning("unreadable heartbeat at offset %d: %s", record.offset, error)
                    continue
                changed |= self.cluster.apply(envelope.record, record.timestamp_ms)
            changed |= bool(self.cluster.forget_silent())
            if changed:
                for callback in self._callbacks:
                    callback(self.cluster)
