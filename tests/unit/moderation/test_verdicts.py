"""Verdicts: what auditors are told, under names that two owners give alike."""

import msgspec

from services.moderation.classifiers import PatternClassifier
from services.moderation.judging import Judge, judge_input
from services.moderation.judging.inputs import InputVerdict
from services.moderation.policy import Policy, load_policy, parse_policy
from services.moderation.verdicts import Trail
from services.moderation.windows import Decision, Stretch
from shared.records import BackendReport, Message

POLICY = parse_policy(r"""
version: test
streaming: {stride: 4, lookback: 16, hold_back: 8}
categories:
  bad: {input: refuse, output: cut, thresholds: {flag: 0.3, cut: 0.7, refuse: 0.8}, patterns: ['kill']}
  odd: {input: flag, output: mask, patterns: ['[0-9]{3,}']}
""")
TRAIL = Trail("resp_1", "acme", POLICY)
ENCODER = BackendReport(name="encoder", revision="1", latency_ms=6.0)
GUARD = BackendReport(name="guard", revision="7", status="late", latency_ms=2_000.0)


async def judged(*turns: str) -> InputVerdict:
    messages = [Message(role="user", parts=[turn]) for turn in turns]
    return await judge_input(Judge(POLICY, PatternClassifier(POLICY), ()), messages)


async def test_of_an_input() -> None:
    verdict = TRAIL.of_input(await judged("ok", "12345 kill"), latency_ms=1.5)
    assert (verdict.stage, verdict.action, verdict.category) == ("input", "refuse", "bad")
    assert (verdict.window, verdict.start, verdict.end) == (1, 6, 10)
    assert (verdict.policy, verdict.tenant, verdict.latency_ms) == (POLICY.name, "acme", 1.5)
    assert verdict.scores == {"odd": 1.0, "bad": 1.0}
    assert verdict.thresholds == {"odd": 0.5, "bad": 0.8}, "what decided against what it did, others against a flag"


async def test_of_a_clean_input_names_nothing() -> None:
    verdict = TRAIL.of_input(await judged("fine"))
    assert (verdict.action, verdict.category, verdict.scores, verdict.thresholds) == ("pass", None, {}, {})


def test_of_an_input_that_nobody_could_judge() -> None:
    verdict = TRAIL.of_unjudged_input(InputVerdict("pass", reports=(ENCODER, GUARD), missing="guard"))
    assert (verdict.action, verdict.category, verdict.backends) == ("refuse", None, [ENCODER, GUARD])


def test_of_a_decision_names_its_place_its_threshold_and_its_finder() -> None:
    masked = TRAIL.of_decision(Decision("mask", "odd", 3, 8, 1.0, 2), [ENCODER])
    assert (masked.action, masked.category, masked.window, masked.start, masked.end) == ("mask", "odd", 2, 3, 8)
    assert masked.backends == [], "a pattern found it"
    cut = TRAIL.of_decision(Decision("cut", "bad", 9, 13, 0.8, 3, 9, "encoder"), [GUARD, ENCODER])
    assert (cut.scores, cut.thresholds, cut.backends) == ({"bad": 0.8}, {"bad": 0.7}, [ENCODER])
    flag = TRAIL.of_decision(Decision("flag", "bad", 0, 13, 0.4, 3, None, "encoder"), [ENCODER])
    assert flag.thresholds == {"bad": 0.3}


def test_of_a_stretch_names_no_category_and_all_scores() -> None:
    verdict = TRAIL.of_stretch(Stretch(5, 64, 128, "flag"), {"bad": 0.4, "unknown": 0.9}, [ENCODER, GUARD], 7.0)
    assert (verdict.action, verdict.category, verdict.start, verdict.end) == ("flag", None, 64, 128)
    assert (verdict.scores, verdict.thresholds) == ({"bad": 0.4, "unknown": 0.9}, {"bad": 0.3})
    assert [(report.name, report.status) for report in verdict.backends] == [("encoder", "ok"), ("guard", "late")]


def test_ids_are_the_same_for_the_same_decision_and_no_other() -> None:
    def name(response_id: str, decision: Decision, policy: Policy = POLICY, latency_ms: float = 0.0) -> str:
        return Trail(response_id, "acme", policy).of_decision(decision, (), latency_ms).verdict_id

    decision = Decision("mask", "odd", 3, 8, 1.0, 2)
    others = [Decision("flag", "odd", 3, 8, 1.0, 2), Decision("mask", "bad", 3, 8, 1.0, 2)]
    others += [msgspec.structs.replace(decision, **change) for change in ({"start": 2}, {"end": 9}, {"window": 3})]
    assert name("resp_1", decision) == name("resp_1", decision, latency_ms=3.5)
    assert name("resp_1", decision).startswith("modr_") and len(name("resp_1", decision)) == 37
    everything = [name("resp_1", decision), name("resp_2", decision), name("resp_1", decision, load_policy())]
    everything += [name("resp_1", other) for other in others]
    everything.append(TRAIL.of_stretch(Stretch(2, 3, 8, "mask"), {}).verdict_id)
    assert len(set(everything)) == len(everything)
