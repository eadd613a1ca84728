"""History's ports in memory, and short ways to build records."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.history.ports import Ports
from shared.control import Outgoing
from shared.errors import ReplayGoneError
from shared.ids import ResponseId, new_response_id
from shared.log import RawRecord, Replay
from shared.records import (
    Accepted,
    Completed,
    ContextRequested,
    Delta,
    Message,
    ReplyAddress,
    Requested,
    ResponseSpec,
    Usage,
)
from shared.records.codec import Envelope, encode_headers, encode_value
from shared.topics import EVENTS, Topic
from tests.unit.history.memory import MemoryStore

TENANT = "acme"
REPLY_TO = ReplyAddress(gateway="gateway_1", partition=2)
NOW_MS = 1_900_000_000_000
FAR_MS = NOW_MS + 600_000


@dataclass
class MemoryLog:
    """The events of each response; `arriving` are appended one per look, as if a worker still spoke."""

    records: dict[str, list[Any]] = field(default_factory=dict)
    arriving: list[Any] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    failures: list[Exception] = field(default_factory=list)
    looks: int = 0
    reads: int = 0

    async def replay(self, topic: Topic, response_id: ResponseId, *, start: int | None = None) -> Replay:
        assert topic is EVENTS
        self.looks += 1
        if self.failures:
            raise self.failures.pop(0)
        if response_id.text in self.gone:
            raise ReplayGoneError("retention")
        stored = self.records.setdefault(response_id.text, [])
        if self.looks > 1 and self.arriving:
            stored.append(self.arriving.pop(0))
        begin = start or 0
        found = [Envelope(r, topic.name, response_id.partition, n, NOW_MS) for n, r in enumerate(stored)]
        return Replay(found[begin:], len(stored))

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, start: int | None = None
    ) -> Replay:
        assert topic is EVENTS
        self.reads += 1
        if self.failures:
            raise self.failures.pop(0)
        (key,) = keys
        if self.reads > 1 and self.arriving:
            self.records.setdefault(key, []).append(self.arriving.pop(0))
        found = [Envelope(r, topic.name, partition, n, NOW_MS) for n, r in enumerate(self.records.get(key, []))]
        return Replay(found[start or 0 :], len(found))


@dataclass
class WordCounter:
    """One token per word of every message, and one per message."""

    context_window: int = 1_000

    def count(self, messages: Sequence[Mapping[str, str]]) -> int:
        return sum(1 + len(message["content"].split()) for message in messages)


@dataclass
class MemoryOutbox:
    """What was appended and what was buried."""

    sent: list[Outgoing] = field(default_factory=list)
    buried: list[tuple[str, int, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def send(self, outgoing: Outgoing) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(outgoing)

    async def bury(self, topic: Topic, record: RawRecord, error: Exception, attempts: int) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.buried.append((topic.name, record.offset, attempts))


def ports(store: MemoryStore, log: MemoryLog, *, window: int = 1_000, parent_wait_s: float = 0.2) -> Ports:
    """Ports over fakes; the clock stands still, unless a test brings its own ports."""
    return Ports(store, log, WordCounter(window), lambda: NOW_MS, 8, parent_wait_s)


def an_id(partition: int = 3) -> str:
    return new_response_id(partition).text


def user(text: str) -> Message:
    return Message(role="user", parts=[text])


def spec(text: str = "hello", **changes: Any) -> ResponseSpec:
    return ResponseSpec(**{"model": "m", "input": [user(text)], **changes})


def accepted(response_id: str, *, epoch: int = 0, tenant: str = TENANT, **spec_changes: Any) -> Accepted:
    return Accepted(
        response_id=response_id,
        epoch=epoch,
        tenant=tenant,
        spec=spec(**spec_changes),
        policy="p1",
        created_ms=NOW_MS,
        deadline_ms=FAR_MS,
        input_tokens=3,
    )


def completed(response_id: str, text: str = "answer", *, epoch: int = 0, tenant: str = TENANT) -> Completed:
    usage = Usage(input_tokens=3, output_tokens=2)
    return Completed(
        response_id=response_id, epoch=epoch, tenant=tenant, text=text, usage=usage, finished_ms=NOW_MS + 5
    )


def delta(response_id: str, text: str = "answer") -> Delta:
    return Delta(response_id=response_id, start=0, end=len(text), text=text, policy="p1", window=0)


def turn(response_id: str, text: str, answer: str, parent: str | None = None, **changes: Any) -> list[Any]:
    """The records that matter of one ended turn."""
    return [
        accepted(response_id, text=text, previous_response_id=parent, **changes),
        completed(response_id, answer, tenant=changes.get("tenant", TENANT)),
    ]


def asked(
    parent: str | None,
    text: str = "and then?",
    *,
    created_ms: int = NOW_MS,
    deadline_ms: int = FAR_MS,
    **changes: Any,
) -> ContextRequested:
    return ContextRequested(
        request=Requested(
            response_id=an_id(),
            tenant=TENANT,
            spec=spec(text, previous_response_id=parent, **changes),
            created_ms=created_ms,
            deadline_ms=deadline_ms,
            input_tokens=0,
            reply_to=REPLY_TO,
        )
    )


def raw(record: Any, offset: int, partition: int = 3, trace: dict[str, str] | None = None) -> RawRecord:
    headers = tuple(encode_headers(record, "test", trace))
    return RawRecord(partition, offset, NOW_MS, record.subject, encode_value(record), headers)


def broken(offset: int, partition: int = 3) -> RawRecord:
    return RawRecord(partition, offset, NOW_MS, "x", b"{not json", (("bad", b"\xff"),))
