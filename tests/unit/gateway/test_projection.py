"""The Responses projection: golden files, strict parsing with the official SDK's types, splitting."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from services.gateway.projections import ClientEvent, ResponsesProjection, stored_events
from shared.ids import new_response_id, parse_response_id
from shared.records import (
    Cancelled,
    Completed,
    Deleted,
    Events,
    Failed,
    Incomplete,
    Sampling,
    Screening,
    TokenLogprob,
)
from tests.unit.gateway.logs import Log

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
DECODER = msgspec.json.Decoder(list[Events])
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def project(records: list[Events], response_id: str) -> list[ClientEvent]:
    projection = ResponsesProjection(parse_response_id(response_id))
    return [event for record in records for event in projection.feed(record)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_records_give_exactly_these_events(path: Path) -> None:
    case = json.loads(path.read_text())
    records = DECODER.decode(json.dumps(case["records"]))
    events = project(records, case["records"][0]["response_id"])
    assert [json.loads(event.json) for event in events] == case["events"]


def test_golden_cases_exist() -> None:
    assert len(GOLDEN) >= 8


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_sdk_parses_every_event_strictly_and_numbers_have_no_gap(path: Path) -> None:
    case = json.loads(path.read_text())
    events = project(DECODER.decode(json.dumps(case["records"])), case["records"][0]["response_id"])
    for number, event in enumerate(events):
        parsed = STREAM_EVENT.validate_json(event.json, strict=False)
        assert (parsed.type, parsed.sequence_number) == (event.type, number)


@given(st.text(min_size=1))
def test_a_delta_is_what_the_encoder_would_write(text: str) -> None:
    log = Log(new_response_id(3))
    said = project([log.accepted(), log.delta(0, text)], log.id.text)[-1]
    fields = {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": log.id.message_id,
        "output_index": 0,
        "content_index": 0,
        "delta": text,
        "logprobs": [],
    }
    assert said.json == msgspec.json.encode(fields)


TERMINALS: list[tuple[type[Any], dict[str, Any], str, str]] = [
    (Incomplete, {"reason": "max_output_tokens"}, "response.incomplete", "incomplete"),
    (Incomplete, {"reason": "content_filter"}, "response.incomplete", "incomplete"),
    (Failed, {"code": "server_error", "message": "boom"}, "response.failed", "failed"),
    (Cancelled, {}, "response.failed", "cancelled"),
]


@pytest.mark.parametrize(("kind", "fields", "event", "status"), TERMINALS)
def test_an_early_end_closes_what_is_open_first(
    log: Log, kind: type[Any], fields: dict[str, Any], event: str, status: str
) -> None:
    events = project([log.accepted(), log.delta(0, "Hel"), log.terminal(kind, "Hel", **fields)], log.id.text)
    assert [e.type for e in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        event,
    ]
    final = Response.model_validate(json.loads(events[-1].json)["response"], strict=True)
    assert (final.status, final.output_text, final.output[0].status) == (status, "Hel", "incomplete")
    assert final.completed_at is None


def test_a_code_of_our_own_is_told_as_one_that_clients_know(log: Log) -> None:
    failed = log.terminal(Failed, "", code="moderation_unavailable", message="the encoder has no answer")
    final = json.loads(project([log.accepted(), failed], log.id.text)[-1].json)["response"]
    error = Response.model_validate(final, strict=True).error
    assert error is not None and (error.code, error.message) == ("server_error", "the encoder has no answer")


@pytest.mark.parametrize("kind", [Failed, Cancelled])
def test_an_end_before_any_text_shows_no_message(log: Log, kind: type[Any]) -> None:
    fields = {"code": "server_error", "message": "boom"} if kind is Failed else {}
    events = project([log.accepted(), log.terminal(kind, "", **fields)], log.id.text)
    assert [e.type for e in events] == ["response.created", "response.in_progress", "response.failed"]
    assert json.loads(events[-1].json)["response"]["output"] == []


RESPONSE_KEYS = {
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "model",
    "output",
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "previous_response_id",
    "conversation",
    "parallel_tool_calls",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "max_output_tokens",
    "max_tool_calls",
    "text",
    "truncation",
    "reasoning",
    "store",
    "background",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "usage",
}


def test_the_response_object_has_every_key_of_the_reference(log: Log) -> None:
    for event in project([log.accepted(), log.terminal(text="Hello")], log.id.text):
        if (response := json.loads(event.json).get("response")) is not None:
            assert response.keys() >= RESPONSE_KEYS | Response.model_fields.keys()
            Response.model_validate(response, strict=True)


def scored(text: str, end: int) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=-0.5, bytes=list(text.encode()), end=end)


def test_the_deltas_log_probabilities_are_together_those_of_the_end(log: Log) -> None:
    said = [scored("Par", 3), scored("is", 5), scored("!", 6)]
    accepted = log.accepted(sampling=Sampling(logprobs=0))
    deltas = [
        msgspec.structs.replace(log.delta(start, text), logprobs=[said[n]])
        for n, (start, text) in enumerate([(0, "Par"), (3, "is")])
    ]
    # The last delta is lost with the log's beginning, or never came: the terminal is the authority.
    events = [
        json.loads(e.json)
        for e in project([accepted, *deltas, log.terminal(text="Paris!", logprobs=said)], log.id.text)
    ]
    told = [entry for event in events if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    (done,) = (event["logprobs"] for event in events if event["type"].endswith("text.done"))
    part = events[-1]["response"]["output"][0]["content"][0]
    assert told == done == part["logprobs"]
    assert [entry["token"] for entry in told] == ["Par", "is", "!"]


def test_a_token_without_bytes_of_its_own_has_a_list_all_the_same(log: Log) -> None:
    token = TokenLogprob(token="?", logprob=-1.0, end=1)
    delta = msgspec.structs.replace(log.delta(0, "?"), logprobs=[token])
    said = json.loads(project([log.accepted(), delta], log.id.text)[-1].json)
    assert said["logprobs"] == [{"token": "?", "bytes": [], "logprob": -1.0, "top_logprobs": []}]


def test_so_far_means_text_and_log_probabilities_so_far(log: Log) -> None:
    projection = ResponsesProjection(log.id)
    projection.feed(log.accepted())
    projection.feed(msgspec.structs.replace(log.delta(0, "Par"), logprobs=[scored("Par", 3)]))
    response = projection.response()
    assert response is not None
    assert [e["token"] for e in response["output"][0]["content"][0]["logprobs"]] == ["Par"]


def test_what_the_store_gives_back_without_deltas_is_said_whole(log: Log) -> None:
    events = project([log.accepted(), log.terminal(text="Paris.")], log.id.text)
    assert [json.loads(e.json)["delta"] for e in events if e.type.endswith("delta")] == ["Paris."]


def test_a_masked_piece_counts_raw_and_shows_its_mask(log: Log) -> None:
    masked = msgspec.structs.replace(log.delta(0, "123456"), text="[x]")
    events = project([log.accepted(), masked, log.delta(6, "!"), log.terminal(text="[x]!")], log.id.text)
    assert "".join(json.loads(e.json)["delta"] for e in events if e.type.endswith("delta")) == "[x]!"


def test_an_erased_response_says_nothing_more(log: Log) -> None:
    projection = ResponsesProjection(log.id)
    projection.feed(log.accepted())
    assert projection.feed(Deleted(response_id=log.id.text, tenant="acme")) == []
    assert projection.feed(log.terminal(text="x")) == []
    assert projection.fold.deleted


def test_lanes_add_their_name_and_nothing_else(log: Log) -> None:
    event = project([log.accepted()], log.id.text)[0]
    assert json.loads(event.text("lane-1")) == {**json.loads(event.json), "stream_id": "lane-1"}
    assert event.text() == event.json.decode()
    assert event.sse() == b"event: response.created\ndata: " + event.json + b"\n\n"


@st.composite
def logs(draw: st.DrawFn) -> list[Events]:
    """Records with duplicates, overlaps, gaps, stale epochs and anything after the end."""
    log = Log(new_response_id(1, unix_ms=1_790_000_000_000))
    pieces = draw(st.lists(st.text(max_size=4), max_size=8))
    records: list[Events] = [log.accepted()]
    position = 0
    for piece in pieces:
        records.append(log.delta(position, piece, epoch=draw(st.integers(0, 2))))
        position += len(piece)
    records.append(log.terminal(text="".join(pieces)))
    noise: list[Events] = [log.accepted(), Screening(response_id=log.id.text, epoch=1, owner="m2")]
    for _ in range(draw(st.integers(0, 4))):
        records.insert(draw(st.integers(0, len(records))), draw(st.sampled_from(records + noise)))
    return records


@given(records=logs(), cut=st.integers(0, 30))
def test_any_split_gives_the_same_bytes(records: list[Events], cut: int) -> None:
    response_id = records[0].response_id
    whole = project(records, response_id)
    split = ResponsesProjection(parse_response_id(response_id))
    parts = [event for part in (records[:cut], records[cut:]) for record in part for event in split.feed(record)]
    assert parts == whole
    assert [event.sequence_number for event in whole] == list(range(len(whole)))


@given(records=logs())
def test_the_deltas_make_the_final_text(records: list[Events]) -> None:
    events = [json.loads(event.json) for event in project(records, records[0].response_id)]
    done = [event["text"] for event in events if event["type"] == "response.output_text.done"]
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert done in ([], [said])


# -- only the first and the last record are left ---------------------------------------------------------------


def from_the_log(log: Log, kind: type[Any], pieces: list[str], **fields: Any) -> tuple[list[ClientEvent], Any]:
    terminal = log.terminal(kind, "".join(pieces), **fields)
    starts = [len("".join(pieces[:n])) for n in range(len(pieces))]
    projection = ResponsesProjection(log.id)
    records = [log.accepted(), *(log.delta(s, piece) for s, piece in zip(starts, pieces, strict=True)), terminal]
    return [event for record in records for event in projection.feed(record)], terminal


@pytest.mark.parametrize("pieces", [[], ["Hello"]])
@pytest.mark.parametrize(
    ("kind", "fields"), [(Completed, {}), (Failed, {"code": "server_error", "message": "no"}), (Cancelled, {})]
)
def test_what_had_at_most_one_delta_comes_from_the_store_byte_for_byte(
    log: Log, kind: type[Any], fields: dict[str, Any], pieces: list[str]
) -> None:
    live, terminal = from_the_log(log, kind, pieces, **fields)
    for number in range(-1, len(live) + 1 if not pieces else 4):
        assert stored_events(log.accepted(), terminal, number) == live[number + 1 :]


def test_who_had_seen_no_delta_gets_the_whole_text_in_one(log: Log) -> None:
    live, terminal = from_the_log(log, Completed, ["Hel", "lo", " you"])
    for number in range(-1, 4):
        found = stored_events(log.accepted(), terminal, number)
        assert [event.sequence_number for event in found] == list(range(number + 1, 9))
        assert [e for e in found if e.sequence_number < 4] == live[number + 1 : 4]
        assert json.loads(found[3 - number].json)["delta"] == "Hello you"


@pytest.mark.parametrize("starting_after", [4, 6, 400])
def test_who_had_seen_a_delta_gets_the_closing_events_numbered_on(log: Log, starting_after: int) -> None:
    live, terminal = from_the_log(log, Completed, ["Hel", "lo", " you"])
    found = stored_events(log.accepted(), terminal, starting_after)
    closing = live[-4:]
    assert [event.type for event in found] == [event.type for event in closing]
    assert [event.sequence_number for event in found] == list(range(starting_after + 1, starting_after + 5))
    for event, original in zip(found, closing, strict=True):
        assert {**json.loads(original.json), "sequence_number": event.sequence_number} == json.loads(event.json)
