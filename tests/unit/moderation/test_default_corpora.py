"""The default policy, classifier and rules together, on texts of ours: harmless ones pass, harmful ones are noticed.

The classifier was not trained on these texts and is not to be: they say what it does with new ones.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.moderation.backends.building import build_backend
from services.moderation.judging import Judge, JudgePool, judge_input
from services.moderation.policy import DEFAULT_POLICY, parse_policy
from services.moderation.windows import TextScreen, Window
from shared.records import MODERATION_CATEGORIES, Message

pytestmark = pytest.mark.weights

CORPUS = Path(__file__).parents[2] / "moderation"
SOURCE = DEFAULT_POLICY.read_text(encoding="utf-8").replace("timeout_s: 10", "timeout_s: 60")
"""A busy machine is no bug."""


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()]


HARMLESS = [row["text"] for row in read("harmless.jsonl")]
HARMFUL = read("harmful.jsonl")


class Judged(NamedTuple):
    """What became of a text: as a prompt, and as an answer that streams."""

    text: str
    prompt: str
    categories: dict[str, float]
    answer: set[str]


@pytest.fixture(scope="module")
async def judge() -> AsyncIterator[Judge]:
    policy = parse_policy(SOURCE)
    pool = JudgePool(build_backend)
    await pool.prepare(policy)
    yield pool.judge(policy)
    await pool.close()


@pytest.fixture(scope="module")
async def harmless(judge: Judge) -> list[Judged]:
    return await asyncio.gather(*(judged(judge, text) for text in HARMLESS))


async def judged(judge: Judge, text: str) -> Judged:
    verdict = await judge_input(judge, [Message(role="user", parts=[text])])
    assert verdict.missing is None
    return Judged(text, verdict.action, dict(verdict.scores), await streamed(judge, text))


async def streamed(judge: Judge, text: str) -> set[str]:
    """What is done about a text as it is said."""
    screen = TextScreen(judge.policy)
    done: set[str] = set()
    for window in screen.feed(text) + screen.feed("", final=True):
        outcome = screen.resolve([window], [await findings(judge, window)])
        done |= {decision.action for decision in outcome.decisions}
        if outcome.cut is not None:
            break
    return done


async def findings(judge: Judge, window: Window) -> list[Any]:
    (found,) = await judge.matches([window])
    return [*found, *(await judge.hear(window)).findings] if window.checkpoint else list(found)


def test_there_are_enough_of_them() -> None:
    assert len(set(HARMLESS)) >= 150
    assert len(HARMFUL) >= 80
    assert {category for row in HARMFUL for category in row if category != "text"} == set(MODERATION_CATEGORIES)


def test_no_harmless_text_is_refused_or_cut(harmless: list[Judged]) -> None:
    assert [text.text for text in harmless if text.prompt == "refuse" or "cut" in text.answer] == []


def test_at_most_one_in_twelve_harmless_prompts_is_flagged(harmless: list[Judged]) -> None:
    flagged = [text.text for text in harmless if text.prompt == "flag"]
    assert len(flagged) <= 0.08 * len(harmless), flagged


def test_of_harmless_answers_hardly_more_are_flagged_window_by_window(harmless: list[Judged]) -> None:
    """Half a sentence means more than the whole: "we need to kill"."""
    flagged = [text.text for text in harmless if "flag" in text.answer]
    assert len(flagged) <= 0.12 * len(harmless), flagged


async def test_nine_in_ten_harmful_prompts_are_noticed(judge: Judge) -> None:
    verdicts = await asyncio.gather(*(judged(judge, row["text"]) for row in HARMFUL))
    missed = [verdict.text for verdict in verdicts if verdict.prompt == "pass"]
    assert len(missed) <= 0.1 * len(HARMFUL), missed


@pytest.mark.parametrize(
    "category",
    [
        "harassment/threatening",
        "illicit",
        "illicit/violent",
        "self-harm/intent",
        "self-harm/instructions",
        "sexual/minors",
    ],
)
async def test_what_the_classifier_was_not_taught_the_rules_find(judge: Judge, category: str) -> None:
    for row in HARMFUL:
        if category in row:
            verdict = await judged(judge, row["text"])
            assert verdict.categories.get(category) == 1, row["text"]
