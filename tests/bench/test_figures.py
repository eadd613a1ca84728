"""The bench's arithmetic: what a level, a median and a ratio are."""

from dataclasses import asdict
from pathlib import Path

import pytest

from services.moderation.policy import parse_policy
from tests.bench.load import chat_completions_api, responses_api
from tests.bench.report import HoldBack, medians, table
from tests.bench.systems import POLICY
from tests.bench.workload import Level, Sample, prompts, summary


def a_level(token_ms: float, tokens_per_s: float, streams: int = 1) -> Level:
    return Level(streams, 10 * token_ms, token_ms, tokens_per_s, 64, 1.0, 4.5, {"engine": token_ms / 2})


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
    usage = {"output_tokens": 7}
    assert responses.read({"type": "response.incomplete", "response": {"usage": usage}}).tokens == 7
    assert chat.read({"choices": [{"delta": {"content": "a"}}]}).text == "a"
    assert chat.read({"choices": [{"delta": {}}], "usage": {"completion_tokens": 7}}).tokens == 7
