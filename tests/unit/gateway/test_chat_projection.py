"""Chat Completions out of the log, without anything around it."""

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.fanout import Cursor, Stream
from services.gateway.projections import RESPONSES
from services.gateway.projections.chat import CHAT, ChatFrames, ChatProjection, ChoicePart, completion_object
from shared.folds import EventFold
from shared.ids import ResponseId, new_response_id
from shared.records import Accepted, AnyTerminal, Completed, Deleted, Events, Sampling, TokenLogprob
from shared.records.codec import Envelope
from tests.unit.gateway.logs import Log


def project(log: Log, records: list[Events]) -> list[ChoicePart]:
    fold = EventFold()
    projection = ChatProjection(log.id, fold)
    counted = (fold.apply(record) for record in records)
    return [part for record in counted if record is not None for part in projection.project(record)]


def choices(parts: list[ChoicePart]) -> list[dict[str, Any]]:
    return [json.loads(b"{%b}" % part.json) for part in parts]


def content(parts: list[ChoicePart]) -> str:
    return "".join(choice["delta"].get("content", "") for choice in choices(parts))


@given(st.lists(st.text(), max_size=8), st.booleans())
def test_whatever_is_said_arrives(pieces: list[str], with_logprobs: bool) -> None:
    log = Log(new_response_id(1))
    records: list[Any] = [log.accepted(sampling=Sampling(logprobs=0 if with_logprobs else None))]
    position = 0
    for piece in pieces:
        records.append(log.delta(position, piece))
        position += len(piece)
    records.append(log.terminal(text="".join(pieces)))
    parts = project(log, records)
    assert content(parts) == "".join(pieces)
    assert len(parts) == 2 + sum(piece != "" for piece in pieces)
    frames = ChatFrames(records[0], include_usage=True)
    for part in parts:
        frame = frames.chunk(3, part)
        assert len(frame.decode().splitlines()) == 2
        assert json.loads(frame.removeprefix(b"data: "))["choices"][0]["index"] == 3


def test_a_response_from_the_store_says_all_at_once(log: Log) -> None:
    said = [TokenLogprob(token="Hello", logprob=-0.5, end=5)]
    records: list[Any] = [log.accepted(sampling=Sampling(logprobs=0)), log.terminal(text="Hello", logprobs=said)]
    parts = choices(project(log, records))
    assert [part["delta"].get("content") for part in parts] == ["", "Hello", None]
    assert [token["token"] for token in parts[1]["logprobs"]["content"]] == ["Hello"]
    (choice,) = completion_object([(records[0], records[1])])["choices"]
    assert choice["logprobs"] == parts[1]["logprobs"]


def test_what_a_deleted_response_had_to_say_stays_unsaid(log: Log) -> None:
    deleted = Deleted(response_id=log.id.text, tenant="acme")
    assert len(project(log, [log.accepted(), deleted, log.delta(0, "x"), log.terminal(text="x")])) == 1


def test_metadata_and_the_tier_are_the_records_own(log: Log) -> None:
    accepted: Accepted = log.accepted(service_tier="priority")
    terminal: AnyTerminal = log.terminal(Completed, "x")
    found = completion_object([(accepted, terminal)])
    assert (found["id"], found["created"]) == (log.id.completion_id, log.id.created_ms // 1000)
    assert (found["service_tier"], found["model"], found["system_fingerprint"]) == ("priority", "m", None)


# -- a stream in two dialects --------------------------------------------------------------------------------------


def envelopes(log: Log) -> list[Envelope[Any]]:
    said = [log.delta(0, "Hel"), log.delta(3, "lo")]
    records = [log.accepted(), *said, log.terminal(text="Hello")]
    return [Envelope(record, "responses.events", 3, offset, 0) for offset, record in enumerate(records)]


async def no_refill(_: ResponseId) -> list[Any]:
    raise AssertionError("everything is still held")


async def read(cursor: Cursor[Any]) -> list[Any]:
    events = []
    async with asyncio.timeout(5):
        while batch := await cursor.batch():
            events += batch
    return events


async def test_readers_of_one_dialect_share_what_was_encoded_once(log: Log) -> None:
    stream = Stream(log.id, CHAT)
    for envelope in envelopes(log):
        stream.take(envelope)
    first, second = [await read(Cursor(stream, CHAT, no_refill)) for _ in range(2)]
    assert [id(part) for part in first] == [id(part) for part in second]
    assert content(first) == "Hello"


async def test_what_nobody_reads_as_it_comes_is_never_encoded(log: Log) -> None:
    stream = Stream(log.id, None)
    assert [stream.take(envelope) for envelope in envelopes(log)] == [0, 0, 0, 0]
    assert (stream.size_bytes, stream.fold.text) == (0, "Hello")


async def test_a_second_dialect_joins_in_the_middle(log: Log) -> None:
    """What was before comes from the log; from then on it is encoded as it comes, and counts for the bound."""
    stream, records = Stream(log.id, CHAT), envelopes(log)
    first, *rest = records
    stream.take(first)
    stream.take(rest[0])
    chat_bytes = stream.size_bytes
    refills = 0

    async def refill(_: ResponseId) -> list[Any]:
        nonlocal refills
        refills += 1
        fold = EventFold()
        projection = RESPONSES.projection(log.id, fold)
        return [event for e in records if (c := fold.apply(e.record)) is not None for event in projection.project(c)]

    cursor = Cursor(stream, RESPONSES, refill)
    assert stream.size_bytes == chat_bytes
    early = await cursor.batch()
    grown = sum(stream.take(envelope) for envelope in rest[1:])
    assert stream.size_bytes == chat_bytes + grown
    late = await read(cursor)
    assert refills == 1
    assert [event.sequence_number for event in early + late] == list(range(10))
    assert late[-1].type == "response.completed"
    assert content(await read(Cursor(stream, CHAT, no_refill))) == "Hello"
    assert stream.trim() == chat_bytes + grown
    assert stream.size_bytes == 0
