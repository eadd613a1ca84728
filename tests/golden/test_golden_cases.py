"""The golden cases: journal in, the exact public log, client events and Response out (see `harness`)."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from services.gateway.fanout.stream import Cursor, Stream
from services.gateway.projections import RESPONSES, ClientEvent
from shared.ids import ResponseId
from shared.records import Events
from shared.records.codec import Envelope
from tests.golden.harness import CASES, RESPONSE_ID, differences, load, outcome, play, project, public_log
from tests.support.fakes import MemoryLog

SCENARIOS = {
    "attempts_exhausted",
    "cancelled_mid_stream",
    "deadline",
    "duplicate_accepted",
    "duplicate_and_overlapping_deltas",
    "epoch_change_with_a_late_old_owner",
    "input_refused",
    "late_second_copy_of_tokens",
    "lost_tokens_record",
    "masked_piece",
    "nobody_follows_any_more",
    "output_cut",
    "plain_completed",
    "replay_from_the_middle",
    "takeover_inside_a_character",
    "token_limit",
    "void_claim_then_good_takeover",
}

cases = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


@cases
async def test_the_case_comes_out_to_the_byte(path: Path) -> None:
    case = load(path)
    assert list(differences(case["expected"], outcome(case, await play(case)))) == []


def test_every_scenario_of_the_specification_has_its_case() -> None:
    assert {path.stem for path in CASES} >= SCENARIOS


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
    found = outcome(case, await play(case))
    wrong = altered(case["expected"])
    assert len(wrong) >= 10
    assert [what for what, expected in wrong if not list(differences(expected, found))] == []


async def test_the_runner_fails_when_a_step_is_altered() -> None:
    case = load(next(path for path in CASES if path.stem == "plain_completed"))
    said = next(s["journal"] for s in case["steps"] if s.get("journal", {}).get("type") == "tokens")
    said["pieces"][0] += "!"
    assert any(line.startswith("client") for line in differences(case["expected"], outcome(case, await play(case))))


# -- what holds for every case -------------------------------------------------------------------------------------


@cases
async def test_a_replica_that_follows_from_anywhere_gives_the_suffix_of_the_whole(path: Path) -> None:
    """Live or replayed, whole or split, with its buffer trimmed or not: starting_after=N gives the events behind N."""
    records = public_log(await play(load(path)))
    whole, _ = project(records)
    for after in range(-1, len(whole)):
        for primed in {0, len(records) // 2, len(records)}:
            got = await _resumed(records, primed, after)
            assert [event.json for event in got] == [event.json for event in whole[after + 1 :]]


async def _resumed(records: list[Envelope[Events]], primed: int, after: int) -> list[ClientEvent]:
    async def refill(_: ResponseId) -> list[ClientEvent]:
        return project(records)[0]

    stream = Stream(RESPONSE_ID)
    stream.prime(records[:primed], records[primed - 1].offset + 1 if primed else 0)
    stream.trim()
    cursor = Cursor(stream, RESPONSES, refill, starting_after=after)
    for envelope in records[primed:]:
        stream.take(envelope)
    got: list[ClientEvent] = []
    while len(got) + after + 1 < stream.view(RESPONSES).end:
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
