"""Buffers and cursors: written once, read by many, bounded."""

import asyncio

import pytest

from services.gateway.fanout import Cursor, Stream, StreamLostError
from services.gateway.projections import RESPONSES, ClientEvent, ResponsesProjection
from shared.ids import ResponseId
from shared.records.codec import Envelope
from tests.unit.gateway.logs import Log


def envelope(record: object, offset: int) -> Envelope[object]:
    return Envelope(record, "responses.events", 3, offset, 0)


def whole(log: Log) -> list[object]:
    return [log.accepted(), log.delta(0, "Hel"), log.delta(3, "lo"), log.terminal(text="Hello")]


async def no_refill(_: ResponseId) -> list[ClientEvent]:
    raise AssertionError("everything is still held")


async def read(cursor: Cursor[ClientEvent]) -> list[ClientEvent]:
    events = []
    while batch := await cursor.batch():
        events += batch
    return events


async def test_readers_at_their_own_pace_get_the_same_objects(log: Log) -> None:
    stream = Stream(log.id)
    early = asyncio.ensure_future(read(Cursor(stream, RESPONSES, no_refill)))
    for offset, record in enumerate(whole(log)):
        stream.take(envelope(record, offset))
        await asyncio.sleep(0)
    late = await read(Cursor(stream, RESPONSES, no_refill))
    assert [id(event) for event in await early] == [id(event) for event in late]
    assert late[-1].type == "response.completed"


async def test_starting_after_gives_the_rest(log: Log) -> None:
    stream = Stream(log.id)
    for offset, record in enumerate(whole(log)):
        stream.take(envelope(record, offset))
    events = await read(Cursor(stream, RESPONSES, no_refill))
    for number in range(-1, len(events)):
        assert await read(Cursor(stream, RESPONSES, no_refill, starting_after=number)) == events[number + 1 :]
    assert await read(Cursor(stream, RESPONSES, no_refill, starting_after=10_000)) == []


async def test_offsets_seen_before_are_ignored(log: Log) -> None:
    stream = Stream(log.id)
    stream.take(envelope(log.accepted(), 4))
    assert stream.take(envelope(log.delta(0, "x"), 4)) == 0
    assert stream.view(RESPONSES).end == 2


async def test_what_comes_during_catch_up_waits_and_overlap_is_dropped(log: Log) -> None:
    records = whole(log)
    stream = Stream(log.id)
    stream.hold_back()
    for offset in (1, 2, 3):
        assert stream.take(envelope(records[offset], offset)) == 0
    stream.prime([envelope(records[0], 0), envelope(records[1], 1)], next_offset=2)
    fresh = ResponsesProjection(log.id)
    assert await read(Cursor(stream, RESPONSES, no_refill)) == [
        event for record in records for event in fresh.feed(record)
    ]


async def test_a_trimmed_buffer_is_refilled_from_the_log(log: Log) -> None:
    records = whole(log)
    stream = Stream(log.id)
    for offset, record in enumerate(records[:3]):
        stream.take(envelope(record, offset))
    fresh = ResponsesProjection(log.id)
    from_log = [event for record in records for event in fresh.feed(record)]

    async def refill(_: ResponseId) -> list[ClientEvent]:
        return from_log  # the log is already further than this follower

    behind = Cursor(stream, RESPONSES, refill, starting_after=1)
    freed = stream.trim()
    assert freed > 0
    assert stream.size_bytes == 0
    held = stream.view(RESPONSES).end
    assert await behind.batch() == from_log[2:held]
    stream.take(envelope(records[3], 3))
    assert await behind.batch() == from_log[held:]


async def test_a_log_that_has_nothing_more_loses_the_stream(log: Log) -> None:
    stream = Stream(log.id)
    stream.take(envelope(log.accepted(), 0))
    stream.trim()

    async def gone(_: ResponseId) -> list[ClientEvent]:
        return []

    with pytest.raises(StreamLostError):
        await Cursor(stream, RESPONSES, gone).batch()


async def test_lag_is_the_age_of_what_was_not_taken(log: Log) -> None:
    now = [100.0]
    stream = Stream(log.id, clock=lambda: now[0])
    cursor = Cursor(stream, RESPONSES, no_refill, clock=lambda: now[0])
    now[0] = 150.0
    assert cursor.lag_s() == 0.0
    stream.take(envelope(log.accepted(), 0))
    now[0] = 157.0
    assert cursor.lag_s() == 7.0
    await cursor.batch()
    assert cursor.lag_s() == 0.0


async def test_one_that_resumes_is_not_late_from_the_start(log: Log) -> None:
    now = [0.0]
    stream = Stream(log.id, clock=lambda: now[0])
    stream.take(envelope(log.accepted(), 0))
    now[0] = 500.0
    cursor = Cursor(stream, RESPONSES, no_refill, clock=lambda: now[0])
    now[0] = 503.0
    assert cursor.lag_s() == 3.0


async def test_a_cancelled_wait_loses_nothing(log: Log) -> None:
    stream = Stream(log.id)
    cursor = Cursor(stream, RESPONSES, no_refill)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cursor.batch()
    stream.take(envelope(log.accepted(), 0))
    assert [event.sequence_number for event in await cursor.batch()] == [0, 1]


async def test_a_silent_stream_remembers_no_more_waits_than_there_are(log: Log) -> None:
    stream = Stream(log.id)
    for _ in range(1_000):
        stream.change().cancel()
    living = [stream.change() for _ in range(3)]
    assert len(stream._waiters) < 100
    stream.take(envelope(log.accepted(), 0))
    assert all(waiter.done() for waiter in living)
    assert not stream.change().done()
