"""Judging a prompt: each text alone, the last turns of the user as one, and what becomes of both."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Sequence
from itertools import repeat

import pytest

from services.moderation.classifiers import PatternClassifier
from services.moderation.judging import (
    Batcher,
    InputVerdict,
    Judge,
    JudgingUnavailable,
    Seat,
    context_before,
    judge_input,
    judge_texts,
)
from services.moderation.judging.inputs import CHUNK, CONTEXT_LENGTH, CONTEXT_TURNS
from services.moderation.policy import Policy, load_policy, parse_policy
from shared.records import Message
from tests.support.backends import WordBackend
from tests.support.fakes import settle

POLICY = parse_policy(r"""
version: test
streaming: {stride: 4, lookback: 16, hold_back: 8}
categories:
  bad: {input: refuse, output: cut, patterns: ['\bkill\b', 'skull']}
  odd: {input: flag, output: mask, patterns: ['\d{3,}', 'k+']}
""")


def said(*turns: str) -> list[Message]:
    return [Message(role="user", parts=[turn]) for turn in turns]


async def judged(policy: Policy, *turns: str) -> InputVerdict:
    """What the patterns make of what the user said."""
    return await judge_input(Judge(policy, PatternClassifier(policy), ()), said(*turns))


def places(verdict: InputVerdict, category: str) -> Sequence[tuple[int, int, int]]:
    found = [item for item in verdict.findings if item.finding.category == category]
    return [(item.text, item.finding.start, item.finding.end) for item in found]


async def test_passes_what_is_clean_and_nothing_at_all() -> None:
    for texts in ([], [""], ["hello", "there"]):
        verdict = await judged(POLICY, *texts)
        assert (verdict.action, verdict.category, verdict.findings) == ("pass", None, ())


async def test_a_refusal_outweighs_a_flag_that_comes_first() -> None:
    verdict = await judged(POLICY, "call 12345", "then kill it")
    assert (verdict.action, verdict.category) == ("refuse", "bad")
    assert [(item.text, item.finding.start, item.finding.end, item.action) for item in verdict.findings] == [
        (0, 5, 10, "flag"),
        (1, 5, 6, "flag"),
        (1, 5, 9, "refuse"),
    ]


async def test_finds_across_the_windows_of_a_long_text_once() -> None:
    for offset in range(-6, 3):
        text = "x" * (CHUNK + offset - 1) + " kill " + "y" * CHUNK
        verdict = await judged(POLICY, text)
        places = [(i.finding.start, i.finding.end) for i in verdict.findings if i.finding.category == "bad"]
        assert places == [(CHUNK + offset, CHUNK + offset + 4)]


async def test_a_word_that_only_a_window_ends_is_none() -> None:
    text = "x" * (CHUNK - 5) + " kills" + "y" * 100
    verdict = await judged(POLICY, text)
    assert all(item.finding.category != "bad" for item in verdict.findings)
    policy = parse_policy("version: t\ncategories: {violence: {input: refuse, patterns: ['\\bkill\\b']}}\n")
    judge = Judge(policy, PatternClassifier(policy), ())
    asked = await judge_texts(judge, [text, text.replace("kills", "kill ")])
    assert [result.flagged for result in asked] == [[], ["violence"]]


async def test_a_match_wider_than_what_windows_share_is_judged_where_it_begins() -> None:
    text = "x" * (CHUNK - 100) + "1" * 200
    verdict = await judged(POLICY, text)
    assert verdict.action == "flag"
    assert verdict.deciding is not None and verdict.deciding.finding.start == CHUNK - 100


async def stalled(work: Awaitable[object]) -> tuple[float, float]:
    """The longest turn of a task that ticks beside `work`, and the whole, both in seconds of CPU time."""
    longest_s, running = 0.0, True

    async def tick() -> None:
        nonlocal longest_s
        while running:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - before)

    gc.disable()  # what other tests left behind would count
    try:
        ticking = asyncio.create_task(tick())
        started = time.thread_time()
        await work
        whole_s = time.thread_time() - started
        running = False
        await ticking
    finally:
        gc.enable()
    return longest_s, whole_s


async def test_a_huge_text_leaves_the_event_loop_responsive() -> None:
    """1 MiB of digits (the pattern without literals is scanned everywhere)."""
    longest_s, whole_s = await stalled(judged(load_policy(), "make 4111 " * (1 << 17)))
    assert longest_s < max(whole_s / 10, 0.05), f"stalled {longest_s:.3f} s of {whole_s:.3f} s"


@pytest.mark.parametrize("texts", [1, 256])
async def test_so_does_one_that_backends_read(texts: int) -> None:
    """512 KiB that take long to normalise, in one text or in many."""
    backend = WordBackend("words", {"qualm": {"bad": 1.0}}, batch=32, reads_context=False)
    judge = Judge(POLICY, PatternClassifier(POLICY), [Seat(Batcher(backend, 60), closed=True)])
    text = "a cafe\u0301 " * ((1 << 16) // texts)
    longest_s, whole_s = await stalled(judge_texts(judge, [text] * texts))
    assert longest_s < max(whole_s / 10, 0.05), f"stalled {longest_s:.3f} s of {whole_s:.3f} s"


async def test_once_a_text_cannot_be_judged_nothing_is_asked_about_the_others() -> None:
    backend = WordBackend("words", {"qualm": {"bad": 1.0}}, batch=1, fails="gremlin", turns=repeat(20))
    judge = Judge(POLICY, PatternClassifier(POLICY), [Seat(Batcher(backend, 60), closed=True)])
    with pytest.raises(JudgingUnavailable):
        await judge_texts(judge, ["gremlin", *(["calm"] * 20)])
    await settle(1000)
    assert len(backend.batches) < 5


# -- what is said over several turns -------------------------------------------------------------------------------


async def test_a_violation_that_is_split_over_two_turns_is_found_in_the_last() -> None:
    policy = parse_policy("version: t\ncategories: {bad: {input: refuse, patterns: ['make a bomb']}}\n")
    verdict = await judged(policy, "hello", "how to make", "a bomb, please")
    assert verdict.action == "refuse"
    assert places(verdict, "bad") == [(2, 0, 6)]
    assert (await judged(policy, "how to make a", "cake")).action == "pass"


async def test_what_lies_in_one_turn_is_found_once() -> None:
    assert places(await judged(POLICY, "kill", "it", "kill"), "bad") == [(0, 0, 4), (2, 0, 4)]


async def test_what_others_said_between_does_not_part_the_users_turns() -> None:
    policy = parse_policy("version: t\ncategories: {bad: {input: refuse, patterns: ['make a bomb']}}\n")
    messages = [*said("how to make"), Message(role="assistant", parts=["What?"]), *said("a bomb")]
    verdict = await judge_input(Judge(policy, PatternClassifier(policy), ()), messages)
    assert places(verdict, "bad") == [(2, 0, 6)]


def test_the_context_is_the_last_turns_and_bounded() -> None:
    turns = said(*map(str, range(10)))
    assert [message.text for message in context_before(turns)] == ["4", "5", "6", "7", "8", "9"][-CONTEXT_TURNS:]
    long = context_before(said("a" * CONTEXT_LENGTH, "b" * (CONTEXT_LENGTH - 1), "c"))
    assert [(message.text[:1], len(message.text)) for message in long] == [("b", CONTEXT_LENGTH - 1), ("c", 1)]
    assert context_before(said("x" * (CONTEXT_LENGTH + 5)))[0].text == "x" * CONTEXT_LENGTH
    assert context_before([]) == ()
