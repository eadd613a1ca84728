"""An event log in memory with the ports of `shared.log`: what the fan-out needs, and a journal that only records."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from shared.ids import ResponseId, now_ms
from shared.log import Appended, RawRecord, Replay
from shared.log.writer import partition_of_key
from shared.records import Record
from shared.records.codec import Envelope, encode_value
from shared.topics import EVENTS, Topic


class FakeLog:
    """Partitions of `responses.events`; every tail sees what is appended after its start."""

    def __init__(self) -> None:
        self.records: dict[int, list[Envelope[Any]]] = {}
        self.tails: list[FakeTail] = []
        self.replays = 0
        self.error: Exception | None = None
        self.replay_gate = asyncio.Event()
        self.replay_gate.set()

    def append(self, partition: int, record: Any) -> None:
        log = self.records.setdefault(partition, [])
        envelope = Envelope(record, EVENTS.name, partition, len(log), 0)
        log.append(envelope)
        for tail in self.tails:
            tail.offer(envelope)

    async def replay(self, response_id: ResponseId) -> Replay:
        log = self.records.get(response_id.partition, [])
        found = Replay([e for e in log if e.record.response_id == response_id.text], len(log))
        self.replays += 1
        await self.replay_gate.wait()
        if self.error is not None:
            raise self.error
        return found

    def tail(self) -> "FakeTail":
        tail = FakeTail(self)
        self.tails.append(tail)
        return tail


class FakeTail:
    """`shared.log.Tail` over a FakeLog; `paused` holds records back, as a slow consumer would."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.partitions: set[int] = set()
        self.queue: asyncio.Queue[list[RawRecord] | Exception] = asyncio.Queue()
        self.stopped = False
        self.paused: list[RawRecord] | None = None

    def offer(self, envelope: Envelope[Any]) -> None:
        if envelope.partition not in self.partitions or self.stopped:
            return
        key, value = envelope.record.response_id, encode_value(envelope.record)
        record = RawRecord(envelope.partition, envelope.offset, 0, key, value, ())
        if self.paused is not None:
            self.paused.append(record)
        else:
            self.queue.put_nowait([record])

    def pause(self) -> None:
        self.paused = []

    def resume(self) -> None:
        assert self.paused is not None
        self.queue.put_nowait(self.paused)
        self.paused = None

    async def start(self, positions: Mapping[int, int | None]) -> None:
        await asyncio.sleep(0)
        self.partitions = set(positions)
        for partition, first in positions.items():
            for envelope in self.log.records.get(partition, []) if first is not None else []:
                if envelope.offset >= first:
                    self.offer(envelope)

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        while True:
            batch = await self.queue.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch

    async def stop(self) -> None:
        self.stopped = True


class FakePresence:
    """Remembers who came and left."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def attached(self, response_id: ResponseId) -> None:
        self.seen.append(("attached", response_id.text))

    def detached(self, response_id: ResponseId) -> None:
        self.seen.append(("detached", response_id.text))

    def cancel(self, response_id: ResponseId) -> None:
        self.seen.append(("cancel", response_id.text))


class FakeWriter:
    """`LogWriter` that keeps what it is given; `on_append` may answer."""

    def __init__(self) -> None:
        self.appended: list[tuple[Topic, Any]] = []
        self.on_append: Any = lambda topic, record: None

    async def append(self, topic: Topic, record: Record, **_: Any) -> Appended:
        return await self.enqueue(topic, record)

    def enqueue(self, topic: Topic, record: Record, **_: Any) -> asyncio.Future[Appended]:
        self.appended.append((topic, record))
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        future.set_result(Appended(0, len(self.appended), 0))
        self.on_append(topic, record)
        return future

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for _, record in self.appended if isinstance(record, kind)]


class LedgerLog:
    """`gateway.ledger` in memory: one log over all partitions, read by any number of tails."""

    def __init__(self, partitions: int = 4) -> None:
        self._partitions = partitions
        self.records: list[RawRecord] = []
        self.now_ms: int | None = None
        self._grown = asyncio.Event()

    def append(self, record: Any, *, value: bytes | None = None) -> None:
        """Append at `now_ms`, or now; `value` replaces the record's bytes."""
        partition = partition_of_key(record.subject, self._partitions)
        offset = sum(other.partition == partition for other in self.records)
        at_ms = now_ms() if self.now_ms is None else self.now_ms
        encoded = encode_value(record) if value is None else value
        self.records.append(RawRecord(partition, offset, at_ms, record.subject, encoded, ()))
        self._grown.set()
        self._grown = asyncio.Event()

    async def start_since(self, partitions: Iterable[int], unix_ms: int) -> dict[int, int]:
        return {number: sum(record.partition == number for record in self.records) for number in partitions}

    async def batches(self) -> AsyncIterator[list[RawRecord]]:
        read = 0
        while True:
            if read < len(self.records):
                batch, read = self.records[read:], len(self.records)
                yield batch
            else:
                await self._grown.wait()

    async def stop(self) -> None:
        pass
