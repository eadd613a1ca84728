"""A steady window of a load: the CPU time of one process in it, and the tokens that the log shows for it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from shared.ids import now_ms
from shared.log import decode
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import raw
from shared.records import Delta, Tokens
from shared.settings import KafkaSettings
from shared.topics import Topic
from tests.bench.cpu import CpuMeter
from tests.bench.tokens.rate import TokenLoad

_POLL_MS = 1000
_PATIENCE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Window:
    """From `start_ms` to `end_ms` (unix) the process took `cpu_s`, and everybody else on the machine `others_s`."""

    start_ms: int
    end_ms: int
    cpu_s: float
    others_s: float

    @property
    def length_s(self) -> float:
        return (self.end_ms - self.start_ms) / 1000


@dataclass(frozen=True, slots=True)
class Counted:
    """What stands in a topic within a window: records of tokens, and the tokens in them."""

    records: int
    tokens: int


async def steady_window(load: TokenLoad, pid: int) -> Window:
    """Let the load settle, then look at the process for `load.window_s`."""
    await asyncio.sleep(load.warmup_s)
    meter, start_ms = CpuMeter({"measured": pid}), now_ms()
    await asyncio.sleep(load.window_s)
    spent, end_ms = meter.seconds(), now_ms()
    return Window(start_ms, end_ms, spent["measured"], spent["others"] + spent["client"])


async def counted(settings: KafkaSettings, topic: Topic, window: Window) -> Counted:
    """The tokens that were appended to `topic` within the window, by the broker's clock (LogAppendTime)."""
    consumer = make_consumer(settings, request_timeout_ms=_PATIENCE_MS)
    await consumer.start()
    try:
        name = topic_name(settings, topic)
        partitions = [TopicPartition(name, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        first = await consumer.offsets_for_times(dict.fromkeys(partitions, window.start_ms))
        late = await consumer.offsets_for_times(dict.fromkeys(partitions, window.end_ms))
        spans = {p: (_offset(first[p], ends[p]), _offset(late[p], ends[p])) for p in partitions}
        found = [await _tokens(consumer, topic, partition, *span) for partition, span in spans.items()]
    finally:
        await consumer.stop()
    tokens = [count for counts in found for count in counts]
    return Counted(len(tokens), sum(tokens))


def _offset(found: Any, end: int) -> int:
    return end if found is None else int(found.offset)


async def _tokens(consumer: Any, topic: Topic, partition: TopicPartition, start: int, end: int) -> list[int]:
    """The number of tokens in each record of tokens in [start, end)."""
    counts: list[int] = []
    if start < end:
        consumer.seek(partition, start)
    position = start
    while position < end:
        for message in (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, ()):
            position = message.offset + 1
            if message.offset < end and (tokens := _tokens_in(decode(topic, raw(message)).record)):
                counts.append(tokens)
    return counts


def _tokens_in(record: Any) -> int:
    """A synthetic delta is one token."""
    if isinstance(record, Tokens):
        return len(record.ids)
    return 1 if isinstance(record, Delta) else 0
