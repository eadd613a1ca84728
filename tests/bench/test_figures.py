"""The bench's arithmetic: what a level, a median and a ratio are."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from services.moderation.policy import parse_policy
from shared.ids import new_response_id
from shared.records import Accepted, Claimed, Delta, Dispatched, Requested, ResponseSpec, Tokens
from shared.records.codec import Envelope
from tests.bench.load import Said, chat_completions_api, responses_api
from tests.bench.report import HoldBack, medians, table
from tests.bench.stages import CLIENT, PACE, median_stages, stages_ms
from tests.bench.systems import POLICY
from tests.bench.workload import Level, Sample, prompts, summary


def a_level(token_ms: float, tokens_per_s: float, streams: int = 1) -> Level:
    return Level(streams, 10 * token_ms, token_ms, tokens_per_s, 64, 1.0, 4.5, {"engine": token_ms / 2}, {})


def test_a_level_is_the_median_of_its_answers_and_the_sum_of_its_tokens() -> None:
    samples = [Sample(0.0, 0.1, 1.0, 10, 10, 40), Sample(0.0, 0.2, 2.0, 10, 5, 40), Sample(0.5, 0.8, 2.5, 20, 20, 80)]
    level = summary(3, samples, {"engine": 0.4})
    assert level.first_token_ms == pytest.approx(200)
    assert level.token_ms == pytest.approx(100)
    assert level.tokens_per_s == pytest.approx(40 / 2.5)
    assert level.pieces_per_token == pytest.approx(35 / 40)
    assert level.characters_per_token == pytest.approx(4)
    assert level.cpu_ms == {"engine": pytest.approx(10)}


def test_pauses_between_single_streams_do_not_count() -> None:
    samples = [Sample(0.0, 0.1, 1.0, 10, 10, 40), Sample(100.0, 100.1, 101.0, 10, 10, 40)]
    assert summary(1, samples, {}).tokens_per_s == pytest.approx(10)


def test_medians_go_over_the_rounds() -> None:
    rounds = [{"mesh": [a_level(ms, 1000 / ms)]} for ms in (10.0, 50.0, 20.0)]
    (level,) = medians(rounds)["mesh"]
    assert level.token_ms == 20
    assert level.cpu_ms == {"engine": 10}
    assert asdict(level)["streams"] == 1


def test_the_table_shows_differences_and_ratios() -> None:
    middle = {"engine": [a_level(20, 50)], "mesh": [a_level(23, 40)], "serve": [a_level(21, 45)]}
    shown = table(middle, [HoldBack("default", 96, 21.3)])
    assert "| **+30.0** | **+3.0** |" in shown
    assert "| 1 | 50.0 | 40.0 | 45.0 | **0.89** | **0.80** | **1.11** |" in shown
    assert "96 code points, about 21.3 tokens" in shown


def test_no_two_prompts_are_alike() -> None:
    asked = [prompt for salt in range(20) for prompt in prompts(32, salt)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("hold_back", [0, 96])
def test_the_benchs_policy_is_valid(hold_back: int, tmp_path: Path) -> None:
    text = POLICY.format(hold_back=hold_back, lookback=max(64, 2 * hold_back))
    assert parse_policy(text).streaming.hold_back == hold_back


def test_both_dialects_read_text_and_length() -> None:
    responses, chat = responses_api("m"), chat_completions_api("m")
    assert responses.read({"type": "response.output_text.delta", "delta": "a"}).text == "a"
    response = {"id": "resp_1", "usage": {"output_tokens": 7}}
    assert responses.read({"type": "response.incomplete", "response": response}) == Said("", 7, "resp_1")
    assert chat.read({"choices": [{"delta": {"content": "a"}}]}).text == "a"
    assert chat.read({"choices": [{"delta": {}}], "usage": {"completion_tokens": 7}}).tokens == 7


def test_the_stages_of_a_first_token_add_up_to_it() -> None:
    response_id = new_response_id(1).text
    spec = ResponseSpec(model="m", input=[])
    base: dict[str, Any] = {"response_id": response_id}
    life: dict[str, Any] = {"tenant": "t", "spec": spec, "created_ms": 0, "deadline_ms": 0, "input_tokens": 1}
    logged = [
        (1_003, Requested(**base, **life)),
        (1_007, Accepted(**base, **life, policy="p")),
        (1_008, Dispatched(**base, attempt=1, worker="w", mailbox=0)),
        (1_012, Claimed(**base, claim="c", attempt=1, worker="w", mailbox=0)),
        (1_030, Tokens(**base, claim="c", position=0, ids=[1], pieces=["a"])),
        (1_050, Tokens(**base, claim="c", position=1, ids=[2], pieces=["b"])),
        (1_033, Delta(**base, start=0, end=1, text="a", policy="p", window=0)),
    ]
    envelopes = [Envelope(record, "t", 1, offset, ms) for offset, (ms, record) in enumerate(logged)]
    sample = Sample(5.0, 5.035, 6.0, 2, 2, 2, response_id, sent_unix_s=1.0)
    stages = stages_ms(sample, envelopes)
    assert stages[PACE] == 20
    assert stages[CLIENT] == pytest.approx(2)
    assert sum(stages.values()) - stages[PACE] == pytest.approx(sample.first_token_ms)
    assert median_stages([stages, stages]) == stages
