"""The golden cases: journal in, the exact public log, client events and Response out (see `harness`)."""

import copy
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai._models import validate_type

from services.gateway.api import replies
from services.gateway.api.chat_replies import ChatCompletion
from services.gateway.fanout.stream import Cursor, Stream
from services.gateway.projections import RESPONSES, Dialect
from services.gateway.projections.chat import CHAT
from shared.folds import EventFold
from shared.ids import ResponseId
from shared.records import Events
from shared.records.codec import Envelope
from tests.golden.clients import LANE, tell
from tests.golden.errors import ERRORS, refusal
from tests.golden.harness import CASES, RESPONSE_ID, differences, load, outcome, play, project, public_log, told
from tests.support.fakes import MemoryLog

SCENARIOS = {
    "attempts_exhausted",
    "cancelled_before_a_word",
    "cancelled_mid_stream",
    "cut_by_a_score",
    "deadline",
    "duplicate_accepted",
    "duplicate_and_overlapping_deltas",
    "empty_answer",
    "every_kind_of_character",
    "epoch_change_with_a_late_old_owner",
    "input_refused",
    "late_second_copy_of_tokens",
    "log_probabilities",
    "lost_tokens_record",
    "masked_by_a_detector",
    "masked_piece",
    "moderation_asked_for",
    "moderation_away",
    "moderation_away_mid_stream",
    "moderation_blocks",
    "moderation_refuses",
    "nobody_follows_any_more",
    "not_stored",
    "nothing_asked_for",
    "output_cut",
    "plain_completed",
    "replay_from_the_middle",
    "stop_string",
    "takeover_inside_a_character",
    "three_choices",
    "token_limit",
    "void_claim_then_good_takeover",
}

OUTCOMES = {"completed", "incomplete", "failed", "cancelled"}
"""Of a response that was accepted (DESIGN 9)."""
REFUSALS = {
    "bad_request",
    "body_too_large",
    "conversation_and_parent",
    "conversation_impossible",
    "conversation_locked",
    "conversation_not_found",
    "input_refused",
    "not_served",
    "parent_unknown",
    "prompt_too_long",
    "store_away",
    "too_many",
    "unknown_id",
    "unknown_model",
    "unknown_parameter",
    "wrong_key",
}

cases = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


@cases
async def test_the_case_comes_out_to_the_byte(path: Path) -> None:
    case = load(path)
    assert list(differences(case["expected"], await outcome(case, await play(case)))) == []


def test_every_scenario_of_the_specification_has_its_case() -> None:
    assert {path.stem for path in CASES} >= SCENARIOS


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
async def test_what_comes_to_nothing_is_told_to_the_byte(path: Path) -> None:
    case = load(path)
    assert list(differences(case["expected"], await refusal(case))) == []


def test_every_refusal_of_the_specification_has_its_case() -> None:
    assert {path.stem for path in ERRORS} >= REFUSALS


def test_every_outcome_is_told_in_every_dialect() -> None:
    found = [load(path)["expected"] for path in CASES]
    for section in ("json", "chat_json", "chat_sse", "stored"):
        told = {case["events"][-1]["type"] for case in found if case[section] is not None and case["events"]}
        assert told >= OUTCOMES, section


@cases
async def test_every_transport_carries_the_same_events(path: Path) -> None:
    case = load(path)
    events, clients = case["expected"]["client"], await tell(told(await play(case)))
    if events:
        lines = [
            event.replace("\x85", r"\u0085").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
            for event in events
        ]
        named = [f"event: {json.loads(line)['type']}\ndata: {line}\n\n" for line in lines]
        assert len("".join(named).splitlines()) == 3 * len(events)
        assert clients["sse"] == {"status": 200, "body": "".join(named)}
        assert clients["websocket"] == [f'{event[:-1]},"stream_id":"{LANE}"}}' for event in events]
    else:
        assert clients["sse"] == clients["json"]
        told_there = json.loads(clients["websocket"][-1])["error"]
        headers = clients["json"].get("headers", {})
        assert told_there.pop("headers", {}).get("retry-after") == headers.get("retry-after")
        assert told_there == json.loads(clients["json"]["body"])["error"]


@cases
def test_chunks_add_up_to_the_completion(path: Path) -> None:
    """What each choice says, its log probabilities, the usage and what moderation found, over SSE and as JSON."""
    expected = load(path)["expected"]
    if expected["chat_json"]["status"] != 200:
        return
    whole = json.loads(expected["chat_json"]["body"])
    *chunks, done = expected["chat_sse"]["body"]
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert done == "data: [DONE]"
    assert (parsed[-1]["choices"], parsed[-1]["usage"]) == ([], whole["usage"])
    asked_for = [whole["moderation"]] if "moderation" in whole else []
    assert [chunk["moderation"] for chunk in parsed if "moderation" in chunk] == asked_for
    said_parts = [part for chunk in parsed for part in chunk["choices"]]
    for choice in whole["choices"]:
        parts = [part for part in said_parts if part["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        said = [token for part in parts if part["logprobs"] for token in part["logprobs"]["content"]]
        assert said == (choice["logprobs"] or {"content": []})["content"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] in ([choice["finish_reason"]], [])


@cases
def test_what_is_told_is_as_published_and_as_the_sdk_reads_it(path: Path) -> None:
    expected = load(path)["expected"]
    for section, published, known in (
        ("json", replies.Response, openai.types.responses.Response),
        ("stored", replies.Response, openai.types.responses.Response),
        ("chat_json", ChatCompletion, openai.types.chat.ChatCompletion),
    ):
        answer = expected[section]
        if answer is not None and answer["status"] == 200:
            published.model_validate_json(answer["body"])
            validate_type(type_=known, value=json.loads(answer["body"]))
        elif answer is not None:
            replies.ErrorEnvelope.model_validate_json(answer["body"])
    for event in expected["chat_sse"]["body"] if expected["chat_sse"]["status"] == 200 else []:
        if event.startswith('data: {"id"'):
            chunk = json.loads(event.removeprefix("data: "))
            validate_type(type_=openai.types.chat.ChatCompletionChunk, value=chunk)


# -- the runner itself can fail ------------------------------------------------------------------------------------


def altered(expected: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """One changed copy per way to be wrong: something dropped, doubled or altered in each section that has it."""
    found = []
    for section, value in expected.items():
        if isinstance(value, list):
            found.append((f"{section}: one too many", {**expected, section: [*value, *(value[-1:] or ["x"])]}))
            if value:
                found.append((f"{section}: last dropped", {**expected, section: value[:-1]}))
                found.append((f"{section}: first altered", {**expected, section: [_changed(value[0]), *value[1:]]}))
        else:
            found.append((f"{section}: altered", {**expected, section: _changed(value)}))
    return found


def _changed(value: Any) -> Any:
    """The smallest change: one character of a text, one field of a record, its order of keys being kept."""
    if isinstance(value, str):
        return value[:-2] + ("?" if value[-2:-1] != "?" else "!") + value[-1:]
    if isinstance(value, dict):
        changed = copy.deepcopy(value)
        key = next(reversed(changed))
        changed[key] = [changed[key], "altered"]
        return changed
    return "altered"


@cases
async def test_the_runner_fails_when_anything_expected_is_altered(path: Path) -> None:
    case = load(path)
    found = await outcome(case, await play(case))
    wrong = altered(case["expected"])
    assert len(wrong) >= 10
    assert [what for what, expected in wrong if not list(differences(expected, found))] == []


async def test_the_runner_fails_when_a_step_is_altered() -> None:
    case = load(next(path for path in CASES if path.stem == "plain_completed"))
    said = next(s["journal"] for s in case["steps"] if s.get("journal", {}).get("type") == "tokens")
    said["pieces"][0] += "!"
    assert any(
        line.startswith("client") for line in differences(case["expected"], await outcome(case, await play(case)))
    )


# -- what holds for every case -------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("dialect", [RESPONSES, CHAT], ids=lambda dialect: dialect.name)
async def test_a_replica_that_follows_from_anywhere_gives_the_suffix_of_the_whole(
    path: Path, dialect: Dialect[Any]
) -> None:
    """Live or replayed, whole or split, with its buffer trimmed or not, told in this dialect from the first record on
    or from the middle: starting_after=N gives the events behind N."""
    records = public_log(await play(load(path)))
    whole = _told_in(dialect, records)
    for after in range(-1, len(whole)):
        for primed in {0, len(records) // 2, len(records)}:
            for first_told_in in (dialect, None):
                got = await _resumed(records, primed, after, dialect, first_told_in)
                assert [event.json for event in got] == [event.json for event in whole[after + 1 :]]


def _told_in(dialect: Dialect[Any], records: list[Envelope[Events]]) -> list[Any]:
    fold = EventFold()
    projection = dialect.projection(RESPONSE_ID, fold)
    counted = (fold.apply(envelope.record) for envelope in records)
    return [event for record in counted if record is not None for event in projection.project(record)]


async def _resumed(
    records: list[Envelope[Events]],
    primed: int,
    after: int,
    dialect: Dialect[Any],
    first_told_in: Dialect[Any] | None,
) -> list[Any]:
    async def refill(_: ResponseId) -> list[Any]:
        return _told_in(dialect, records)

    stream = Stream(RESPONSE_ID, first_told_in)
    stream.prime(records[:primed], records[primed - 1].offset + 1 if primed else 0)
    stream.trim()
    cursor = Cursor(stream, dialect, refill, starting_after=after)
    for envelope in records[primed:]:
        stream.take(envelope)
    got: list[Any] = []
    while len(got) + after + 1 < stream.view(dialect).end:
        got += await cursor.batch()
    return got


JOURNAL_ONLY = [path for path in CASES if all(step.keys() == {"journal"} for step in load(path)["steps"])]


@pytest.mark.parametrize("path", JOURNAL_ONLY, ids=lambda path: path.stem)
async def test_how_the_journal_was_batched_changes_neither_the_text_nor_the_end(path: Path) -> None:
    """DESIGN 6.3. (How many tokens a cut response had cost by then does depend on when the cut was seen.)"""
    case = load(path)
    one_by_one, together = [await play(case, one_batch=batched) for batched in (False, True)]
    assert _said_and_ended(together) == _said_and_ended(one_by_one)


def _said_and_ended(log: MemoryLog) -> tuple[str, dict[str, Any] | None]:
    events, response = project(public_log(log))
    said = "".join(json.loads(event.json).get("delta", "") for event in events)
    return said, None if response is None else {**response, "usage": None}
