"""The pattern classifier, input screening, and the verdicts that come of them."""

import asyncio
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.moderation.classifiers import PatternClassifier, screen_input
from services.moderation.classifiers.inputs import CHUNK
from services.moderation.classifiers.patterns import RUN_SPAN
from services.moderation.policy import Policy, load_policy, parse_policy
from services.moderation.verdicts import input_verdict, output_verdicts, passed_verdict
from services.moderation.windows import Decision, Finding, Outcome, TextScreen, Window

POLICY = parse_policy(r"""
version: test
streaming: {stride: 4, lookback: 16, hold_back: 8}
categories:
  bad: {input: refuse, output: cut, patterns: ['\bkill\b', 'skull']}
  odd: {input: flag, output: mask, patterns: ['\d{3,}', 'ſk', 'k+']}
  quiet: {input: "off", output: flag, patterns: ['ill']}
  loud: {input: refuse, output: "off", patterns: ['shout']}
""")


def findings_one_by_one(policy: Policy, text: str, window: Window) -> list[Finding]:
    return [
        Finding(category.name, m.start(), m.end(), open=m.end() == window.end and not window.final)
        for category in policy.categories.values()
        if getattr(category, window.stage) != "off"
        for pattern in category.patterns
        for m in pattern.regex.finditer(text, window.start, window.end)
    ]


@settings(max_examples=300)
@given(st.lists(st.text(alphabet="kilsu 1ſK", max_size=30), min_size=1, max_size=4))
async def test_a_batch_finds_what_each_window_alone_does(texts: list[str]) -> None:
    """Asked together or one by one: the same. The Kelvin sign (K) is in the texts because case folds it to a k."""
    batch: list[Window] = []
    expected: list[list[Finding]] = []
    for text in texts:
        screen = TextScreen(POLICY)
        for at in range(0, len(text), 5):
            batch += screen.feed(text[at : at + 5])
        batch += screen.feed("", final=True)
        expected += [findings_one_by_one(POLICY, text, window) for window in batch[len(expected) :]]
    assert await PatternClassifier(POLICY).classify(batch) == expected


@pytest.mark.parametrize("text", ["a \u017fkull", "a s\u212aull"])
async def test_letters_that_case_folds_onto_ascii_ones_hide_nothing(text: str) -> None:
    (found,) = await PatternClassifier(POLICY).classify([Window(0, 0, len(text), True, text)])
    assert [(f.start, f.end) for f in found if f.category == "bad"] == [(2, 7)]


async def test_a_text_that_is_asked_about_in_several_runs_hides_nothing() -> None:
    """An owner that takes a long response over feeds all of it at once."""
    text = "x" * (RUN_SPAN - 2) + " kill " + "y" * RUN_SPAN + " kill"
    windows = TextScreen(POLICY).feed(text, final=True)
    found = await PatternClassifier(POLICY).classify(windows)
    assert found == [findings_one_by_one(POLICY, text, window) for window in windows]
    bad = {(f.start, f.end) for findings in found for f in findings if f.category == "bad"}
    assert bad == {(RUN_SPAN - 1, RUN_SPAN + 3), (2 * RUN_SPAN + 5, 2 * RUN_SPAN + 9)}


async def test_the_text_behind_a_window_is_not_looked_at() -> None:
    text = "kills"
    (early,) = await PatternClassifier(POLICY).classify([Window(0, 0, 4, False, text)])
    (late,) = await PatternClassifier(POLICY).classify([Window(1, 0, 5, True, text)])
    assert [f for f in early if f.category == "bad"] == [Finding("bad", 0, 4, open=True)]
    assert [f for f in late if f.category == "bad"] == []


async def test_a_stage_looks_only_for_what_it_acts_on() -> None:
    text = "ill shout"
    found = await PatternClassifier(POLICY).classify(
        [Window(0, 0, 9, True, text, 0, "input"), Window(0, 0, 9, True, text, 0, "output")]
    )
    assert [[f.category for f in findings] for findings in found] == [["loud"], ["quiet"]]


class TestInput:
    async def test_passes_what_is_clean_and_nothing_at_all(self) -> None:
        for texts in ([], [""], ["hello", "there"]):
            verdict = await screen_input(POLICY, PatternClassifier(POLICY), texts)
            assert (verdict.action, verdict.category, verdict.findings) == ("pass", None, ())

    async def test_a_refusal_outweighs_a_flag_that_comes_first(self) -> None:
        verdict = await screen_input(POLICY, PatternClassifier(POLICY), ["call 12345", "then kill it"])
        assert (verdict.action, verdict.category) == ("refuse", "bad")
        assert [(item.text, item.finding.start, item.finding.end, item.action) for item in verdict.findings] == [
            (0, 5, 10, "flag"),
            (1, 5, 6, "flag"),
            (1, 5, 9, "refuse"),
        ]

    async def test_finds_across_the_windows_of_a_long_text_once(self) -> None:
        for offset in range(-6, 3):
            text = "x" * (CHUNK + offset - 1) + " kill " + "y" * CHUNK
            verdict = await screen_input(POLICY, PatternClassifier(POLICY), [text])
            places = [(i.finding.start, i.finding.end) for i in verdict.findings if i.finding.category == "bad"]
            assert places == [(CHUNK + offset, CHUNK + offset + 4)]

    async def test_a_word_that_only_a_window_ends_is_none(self) -> None:
        text = "x" * (CHUNK - 5) + " kills" + "y" * 100
        verdict = await screen_input(POLICY, PatternClassifier(POLICY), [text])
        assert all(item.finding.category != "bad" for item in verdict.findings)

    async def test_a_match_wider_than_what_windows_share_is_judged_where_it_begins(self) -> None:
        text = "x" * (CHUNK - 100) + "1" * 200
        verdict = await screen_input(POLICY, PatternClassifier(POLICY), [text])
        assert verdict.action == "flag"
        assert verdict.deciding is not None and verdict.deciding.finding.start == CHUNK - 100

    async def test_a_huge_text_leaves_the_event_loop_responsive(self) -> None:
        """1 MiB of digits (the pattern without literals is scanned everywhere) beside a ticking task."""
        longest_s, running = 0.0, True

        async def tick() -> None:
            nonlocal longest_s
            while running:
                before = time.perf_counter()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.perf_counter() - before)

        ticking = asyncio.create_task(tick())
        policy = load_policy()
        started = time.perf_counter()
        await screen_input(policy, PatternClassifier(policy), ["make 4111 " * (1 << 17)])
        whole_s = time.perf_counter() - started
        running = False
        await ticking
        assert longest_s < max(whole_s / 10, 0.05), f"stalled {longest_s:.3f} s of {whole_s:.3f} s"


class TestVerdicts:
    async def test_of_an_input(self) -> None:
        result = await screen_input(POLICY, PatternClassifier(POLICY), ["ok", "12345 kill"])
        verdict = input_verdict("resp_1", "acme", POLICY, result, latency_ms=1.5)
        assert (verdict.stage, verdict.action, verdict.category) == ("input", "refuse", "bad")
        assert (verdict.window, verdict.start, verdict.end) == (1, 6, 10)
        assert (verdict.policy, verdict.tenant, verdict.latency_ms) == (POLICY.name, "acme", 1.5)
        assert verdict.scores == {"odd": 1.0, "bad": 1.0}

    async def test_of_a_clean_input_names_nothing(self) -> None:
        result = await screen_input(POLICY, PatternClassifier(POLICY), ["fine"])
        verdict = input_verdict("resp_1", "acme", POLICY, result)
        assert (verdict.action, verdict.category, verdict.scores) == ("pass", None, {})

    def test_of_an_output_one_per_decision(self) -> None:
        decisions = [Decision("mask", "odd", 3, 8, 1.0, 2), Decision("cut", "bad", 9, 13, 0.8, 3, cut_at=9)]
        verdicts = output_verdicts("resp_1", "acme", POLICY, Outcome([], decisions))
        assert [(v.action, v.category, v.window, v.start, v.end) for v in verdicts] == [
            ("mask", "odd", 2, 3, 8),
            ("cut", "bad", 3, 9, 13),
        ]
        assert verdicts[1].scores == {"bad": 0.8}

    def test_of_a_pass_names_the_final_window(self) -> None:
        screen = TextScreen(POLICY)
        final = screen.feed("nine chars"[:9], final=True)[-1]
        assert passed_verdict("resp_1", "acme", POLICY, 9).window == final.index

    def test_ids_are_the_same_for_the_same_decision_and_no_other(self) -> None:
        def ids(response_id: str, decision: Decision, policy: Policy = POLICY) -> str:
            (verdict,) = output_verdicts(response_id, "acme", policy, Outcome([], [decision]), time.perf_counter())
            return verdict.verdict_id

        decision = Decision("mask", "odd", 3, 8, 1.0, 2)
        others = [Decision("flag", "odd", 3, 8, 1.0, 2), Decision("mask", "bad", 3, 8, 1.0, 2)]
        others += [msgspec.structs.replace(decision, **change) for change in ({"start": 2}, {"end": 9}, {"window": 3})]
        assert ids("resp_1", decision) == ids("resp_1", decision)
        assert ids("resp_1", decision).startswith("modr_") and len(ids("resp_1", decision)) == 37
        everything = [ids("resp_1", decision), ids("resp_2", decision), ids("resp_1", decision, load_policy())]
        everything += [ids("resp_1", other) for other in others]
        assert len(set(everything)) == len(everything)
