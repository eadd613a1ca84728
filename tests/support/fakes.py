"""The broker, the heartbeats and the engine in memory: what owner and worker need to run without any I/O.

`MemoryLog` stands for the broker: topics, partitions, offsets and one clock. `MemoryWriter` and `MemoryReplayer`
stand for `LogWriter` and `Replayer`; the writer asks the real topic registry and can fail or be slow on demand.
Nothing here sleeps: `settle()` lets the event loop run until everything that can happen has happened.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.inference.engines.port import (
    EngineDeadError,
    EngineFullError,
    GenerationRequest,
    ModelInfo,
    OnOutputs,
    OnProgress,
    StepOutput,
)
from shared.errors import AppendError, RecordRefusedError
from shared.ids import ResponseId, parse_response_id
from shared.log import Appended, RawRecord, Replay, decode
from shared.records import Record
from shared.records.codec import encode_headers, encode_value
from shared.topics import DEAD_LETTERS, REGISTRY, Partitioning, Service, Topic, assert_may_consume, assert_may_produce

START_MS = 1_790_000_000_000


async def settle(turns: int = 50) -> None:
    """Let every task and callback run that can run without a clock, for so many turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


@dataclass
class MemoryLog:
    """What the broker holds. `order` has every record as it came in, over all topics."""

    now_ms: int = START_MS
    partitions: dict[tuple[str, int], list[RawRecord]] = field(default_factory=dict)
    order: list[tuple[Topic, RawRecord]] = field(default_factory=list)

    def append(
        self, topic: Topic, record: Record, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> Appended:
        """Put a record where the registry says that it belongs."""
        headers = tuple(encode_headers(record, "test", trace))
        where = _partition(topic, record) if partition is None else partition
        return self.append_raw(topic, where, record.subject, encode_value(record), headers)

    def append_raw(
        self, topic: Topic, partition: int, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> Appended:
        """Put bytes into the log, whatever they are."""
        stored = self.partitions.setdefault((topic.name, partition), [])
        raw = RawRecord(partition, len(stored), self.now_ms, key, value, headers)
        stored.append(raw)
        self.order.append((topic, raw))
        return Appended(partition, raw.offset, self.now_ms)

    def end(self, topic: Topic, partition: int) -> int:
        """The offset of the next record."""
        return len(self.partitions.get((topic.name, partition), ()))

    def read(self, topic: Topic, partition: int, start: int = 0) -> list[RawRecord]:
        """The raw records of a partition from `start` on."""
        return self.partitions.get((topic.name, partition), [])[start:]

    def of(self, topic: Topic, kind: type[Any] = Record) -> list[Any]:
        """The decoded records of a topic in order of their arrival; undecodable ones are left out by kind only."""
        found = [decode(topic, raw).record for where, raw in self.order if where is topic and _is_json(raw)]
        return [record for record in found if isinstance(record, kind)]

    def dead_letters(self, topic: Topic) -> list[Any]:
        """What was put aside of a topic."""
        return self.of(DEAD_LETTERS[topic.name])


def _is_json(raw: RawRecord) -> bool:
    return raw.value is not None and raw.value.startswith(b"{") and raw.value.endswith(b"}")


def _partition(topic: Topic, record: Record) -> int:
    if topic.partitioning is Partitioning.FROM_ID:
        return parse_response_id(record.subject).partition
    if topic.partitioning is Partitioning.KEY:
        return 0
    raise ValueError(f"{topic.name}: the partition must be given ({topic.partitioning})")


Fails = Callable[[Topic, Record], bool]


class MemoryWriter:
    """`LogWriter` on a `MemoryLog`. Records stand in the log at once, in the order of the calls.

    `fails` names appends that the broker does not take (the future fails with AppendError), `refuses` those that it
    never will (RecordRefusedError), `full` refuses every call at once, and while `slow`, records land but their
    acknowledgements wait for `acknowledge()`. `lost` names the topics whose records have no dead letter.
    """

    def __init__(self, log: MemoryLog, service: Service) -> None:
        self.log = log
        self.fails: Fails = lambda _topic, _record: False
        self.refuses: Fails = lambda _topic, _record: False
        self.full = False
        self.slow = False
        self.lost: list[str] = []
        self._service = service
        self._unacknowledged: list[tuple[asyncio.Future[Appended], Appended]] = []

    async def append(self, topic: Topic, record: Record, **where: Any) -> Appended:
        return await self.enqueue(topic, record, **where)

    def enqueue(
        self, topic: Topic, record: Record, *, partition: int | None = None, trace: Mapping[str, str] | None = None
    ) -> asyncio.Future[Appended]:
        assert_may_produce(topic, self._service, record)
        assert REGISTRY[topic.name] is topic
        if self.full:
            raise AppendError("too many records wait for the broker")
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        if self.fails(topic, record):
            future.set_exception(AppendError(f"append to {topic.name} failed: on demand"))
            return future
        if self.refuses(topic, record):
            future.set_exception(RecordRefusedError(f"append to {topic.name} failed: too long"))
            return future
        where = self.log.append(topic, record, partition, trace)
        if self.slow:
            self._unacknowledged.append((future, where))
        else:
            future.set_result(where)
        return future

    def letter_lost(self, source: Topic) -> None:
        self.lost.append(source.name)

    def acknowledge(self) -> None:
        """The broker answers everything that waits, and is quick again."""
        self.slow = False
        waiting, self._unacknowledged = self._unacknowledged, []
        for future, where in waiting:
            future.set_result(where)


class MemoryReplayer:
    """`Replayer` on a `MemoryLog`. `before_read` runs before each look: what others append in the meantime."""

    def __init__(self, log: MemoryLog, service: Service) -> None:
        self._log = log
        self._service = service
        self.before_read: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self.asked: list[tuple[str, int | None, int | None]] = []

    async def replay(
        self, topic: Topic, response_id: ResponseId, *, start: int | None = None, until: int | None = None
    ) -> Replay:
        self.asked.append((response_id.text, start, until))
        return await self._scan(topic, response_id.partition, {response_id.text}, start or 0, until)

    async def read(
        self,
        topic: Topic,
        partition: int,
        keys: Collection[str],
        *,
        since_ms: int,
        start: int | None = None,
        until: int | None = None,
    ) -> Replay:
        self.asked += [(key, start, until) for key in keys]
        raws = self._log.read(topic, partition)
        if start is None:
            start = next((raw.offset for raw in raws if raw.timestamp_ms >= since_ms), len(raws))
        return await self._scan(topic, partition, keys, start, until)

    async def _scan(self, topic: Topic, partition: int, keys: Collection[str], start: int, until: int | None) -> Replay:
        assert_may_consume(topic, self._service)
        self.before_read()
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        end = self._log.end(topic, partition) if until is None else until + 1
        wanted = [raw for raw in self._log.read(topic, partition)[start:end] if raw.key in keys]
        return Replay([decode(topic, raw) for raw in wanted], end)


class FakeHeart:
    """`Heart` without a thread: what the next beat would say. `may_beat` holds an announced beat back."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {}
        self.may_beat = asyncio.Event()
        self.may_beat.set()

    def update(self, **changes: Any) -> None:
        self.says.update(changes)

    async def announce(self, timeout_s: float, **changes: Any) -> bool:
        self.update(**changes)
        await self.may_beat.wait()
        return True


class FakeMailbox:
    """The commits of a `GroupConsumer`, each with how many records the log held at that moment."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.commits: list[tuple[int, int]] = []
        self.seen_at_commit: list[int] = []

    async def commit(self, partition: int, next_offset: int) -> bool:
        self.commits.append((partition, next_offset))
        self.seen_at_commit.append(len(self._log.order))
        return True


class FakeEngine:
    """An engine that says what the test tells it to, when the test tells it to. Implements `Engine`."""

    def __init__(self, model: str = "m", slots: int = 2, context_window: int = 2048) -> None:
        self.info = ModelInfo(model, "rev-1", context_window, slots)
        self.steps = 0
        self.alive = True
        self.running: dict[str, GenerationRequest] = {}
        self.submitted: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.restarts = 0
        self.restart_error: Exception | None = None
        self.hangs = False
        self.may_restart = asyncio.Event()
        self.may_restart.set()
        self._on_outputs: OnOutputs | None = None

    async def start(self, on_outputs: OnOutputs, on_progress: OnProgress) -> None:
        self._on_outputs = on_outputs
        on_progress("fake")

    async def restart(self) -> None:
        self.restarts += 1
        await self.may_restart.wait()
        if self.restart_error is not None:
            raise self.restart_error
        self.alive = True

    async def close(self) -> None:
        self.alive = False

    def submit(self, request: GenerationRequest) -> None:
        if not self.alive:
            raise EngineDeadError("the engine does not run")
        if len(self.running) >= self.info.slots:
            raise EngineFullError(f"all {self.info.slots} slots are taken")
        if request.id in self.running:
            raise ValueError(f"request {request.id} runs already")
        request.check_fits(self.info.context_window)
        self.running[request.id] = request
        self.submitted.append(request)

    def cancel(self, request_id: str) -> None:
        """Confirmed with the next turn of the event loop, unless the engine `hangs`."""
        self.cancelled.append(request_id)
        if not self.hangs and self.running.pop(request_id, None) is not None:
            asyncio.get_running_loop().call_soon(self._deliver, [StepOutput(request_id, finish="cancelled")])

    def say(self, request_id: str, ids: Sequence[int], finish: Any = None, *, cached_tokens: int = 0) -> None:
        """One step's output for one request."""
        self.steps += 1
        if finish is not None:
            self.running.pop(request_id, None)
        self._deliver([StepOutput(request_id, tuple(ids), finish, cached_tokens=cached_tokens)])

    def fail(self, request_id: str, error: str) -> None:
        """One request ends with an error; the others go on."""
        self.running.pop(request_id, None)
        self._deliver([StepOutput(request_id, finish="error", error=error)])

    def die(self) -> None:
        """The loop dies: every request that ran hears of it, in one batch; without any, nobody is told."""
        self.alive = False
        orphans = [StepOutput(request_id, finish="error", error="the loop died") for request_id in self.running]
        self.running.clear()
        if orphans:
            self._deliver(orphans)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        assert self._on_outputs is not None, "start() first"
        self._on_outputs(outputs)
