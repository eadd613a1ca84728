"""What verdicts add up to: each counts once, texts and finds apart, and no text anywhere."""

import json

import msgspec
import pytest

from services.moderation.report.latencies import Latencies
from services.moderation.report.rendering import render, render_verdict
from services.moderation.report.seen import Seen
from services.moderation.report.summary import Summary, as_json, did_something
from shared.records import BackendReport, Verdict
from tests.unit.moderation.report.samples import AT_MS, CUT, CUT_STRETCH, REFUSED, verdict


def summed(*verdicts: Verdict, tenant: str | None = None) -> Summary:
    summary = Summary(tenant)
    for place, each in enumerate(verdicts):
        summary.add(each, AT_MS + place * 1000)
    return summary


def test_texts_are_counted_apart_from_what_was_found_in_them() -> None:
    summary = summed(verdict(0), CUT, CUT_STRETCH, REFUSED)
    assert summary.texts == {("output", "pass"): 1, ("output", "cut"): 1, ("input", "refuse"): 1}
    assert summary.categories == {("hate", "output", "cut"): 1, ("hate", "input", "refuse"): 1}
    assert summary.policies == {("p-1@00000000", "pass"): 1, ("p-1@00000000", "cut"): 1, ("p-1@00000000", "refuse"): 1}
    assert summary.tenants == {("acme", "pass"): 1, ("acme", "cut"): 1, ("b", "refuse"): 1}
    assert (summary.verdicts, summary.first_ms, summary.last_ms) == (4, AT_MS, AT_MS + 3000)


def test_a_verdict_that_comes_again_counts_once() -> None:
    summary = summed(CUT, CUT_STRETCH, CUT, CUT_STRETCH, CUT)
    assert (summary.verdicts, summary.repeated) == (2, 3)
    assert summary.categories == {("hate", "output", "cut"): 1}


def test_only_one_tenants_are_counted_where_one_is_named() -> None:
    summary = summed(verdict(0), CUT, REFUSED, tenant="b")
    assert summary.verdicts == 1 and set(summary.tenants) == {("b", "refuse")}


class TestThresholds:
    def test_are_told_by_what_they_are_for(self) -> None:
        masked = verdict(4, action="mask", category="secrets", scores={"secrets": 1.0}, thresholds={"secrets": 0.9})
        assert summed(CUT, CUT_STRETCH, REFUSED, masked).thresholds == {
            ("hate", "cut", 0.9),
            ("hate", "flag", 0.5),
            ("sexual", "flag", 0.4),
            ("hate", "refuse", 0.8),
            ("secrets", "mask", 0.9),
        }

    @pytest.mark.parametrize(
        ("scores", "below", "above"),
        [
            ([0.4, 0.49, 0.499], 3, 0),
            ([0.5, 0.55, 0.599], 0, 3),
            ([0.39, 0.6, 0.0, 1.0], 0, 0),
            ([0.399999, 0.4999999, 0.5], 1, 1),
        ],
    )
    def test_near_is_up_to_a_tenth_away(self, scores: list[float], below: int, above: int) -> None:
        summary = summed(*(verdict(n, scores={"hate": s}, thresholds={"hate": 0.5}) for n, s in enumerate(scores)))
        assert summary.near("hate", 0.5) == (below, above)

    def test_a_score_of_1_is_a_patterns_and_near_no_threshold_below(self) -> None:
        summary = summed(verdict(0, scores={"hate": 1.0}), verdict(1, scores={"hate": 0.9999}))
        assert as_json(summary)["scores"] == {"hate": {"0.99": 1, "1.00": 1}}
        assert (summary.near("hate", 0.95), summary.near("hate", 1.0)) == ((0, 1), (1, 1))

    def test_what_nothing_is_near_is_not_shown(self) -> None:
        shown = render(
            summed(verdict(0, scores={"hate": 0.1, "sexual": 0.45}, thresholds={"hate": 0.5, "sexual": 0.5}))
        )
        assert ["sexual", "flag", "0.5", "1", "0"] in [line.split() for line in shown.splitlines()]
        assert "hate" not in shown

    def test_scores_of_finds_are_those_of_their_text_and_not_counted_again(self) -> None:
        assert as_json(summed(CUT, CUT_STRETCH))["scores"] == {"hate": {"0.93": 1}, "sexual": {"0.01": 1}}


def test_backends_are_counted_by_version_and_answer() -> None:
    def answered(number: int, status: str, latency_ms: float, revision: str = "r1") -> Verdict:
        report = BackendReport(name="encoder", revision=revision, status=status, latency_ms=latency_ms)  # type: ignore[arg-type]
        return verdict(number, backends=[report])

    summary = summed(answered(0, "ok", 1), answered(1, "ok", 2), answered(2, "late", 2000), answered(3, "ok", 5, "r2"))
    first, second = as_json(summary)["backends"]
    assert (first["revision"], first["ok"], first["late"], first["latency_ms"]["max"]) == ("r1", 2, 1, 2000)
    assert (second["revision"], second["ok"]) == ("r2", 1)


class TestLatencies:
    def test_quantiles_are_at_most_a_twentieth_too_high(self) -> None:
        latencies = Latencies()
        for value in range(1, 1001):
            latencies.add(value / 10)
        for share, exact in ((0.5, 50.0), (0.95, 95.0), (0.99, 99.0)):
            assert exact <= latencies.quantile(share) <= exact * 1.05
        assert latencies.quantile(1.0) == latencies.max_ms == 100.0

    def test_of_nothing_and_of_next_to_nothing(self) -> None:
        latencies = Latencies()
        assert latencies.quantile(0.5) == 0.0
        latencies.add(0.0)
        assert latencies.quantile(0.99) == 0.0 and latencies.count == 1


class TestSeen:
    def test_an_id_is_first_once(self) -> None:
        seen = Seen()
        assert [seen.first(each) for each in "abab"] == [True, True, False, False]

    def test_the_latest_are_remembered_and_no_more_than_twice_as_many(self) -> None:
        seen = Seen(remembered=3)
        assert all(seen.first(str(number)) for number in range(8))
        assert not any(seen.first(str(number)) for number in (7, 6, 5))  # the latest three
        assert seen.first("0")


class TestListing:
    def test_what_was_found_is_shown_and_an_input_that_nobody_could_judge(self) -> None:
        unjudged = verdict(5, stage="input", action="refuse")
        assert [did_something(each) for each in (CUT, REFUSED, unjudged, CUT_STRETCH, verdict(0))] == [
            True,
            True,
            True,
            False,
            False,
        ]

    def test_a_line_names_everything_by_its_id(self) -> None:
        line = render_verdict(msgspec.structs.replace(CUT, backends=[BackendReport(name="e", revision="r")]), AT_MS)
        for part in (CUT.verdict_id, "resp_2", "acme", "output cut hate 0.930", "[64, 128)", "p-1@00000000", "e=ok"):
            assert part in line
        assert line.startswith("2026-09-21T")


def test_the_report_is_a_screen_of_tables() -> None:
    report = BackendReport(name="encoder", revision="4f1d", latency_ms=6)
    judged = msgspec.structs.replace(CUT_STRETCH, backends=[report])
    text = render(summed(verdict(0), CUT, judged, REFUSED, REFUSED))
    assert text.startswith("4 verdicts from 2026-09-21T") and "1 of them again by another owner" in text.splitlines()[0]
    cells = [line.split() for line in text.splitlines()]
    assert ["stretches", "of", "output", "1", "0", "0", "1", "0"] in [row[:8] for row in cells]
    assert ["hate", "input", "0", "0", "0", "0", "1"] in cells
    assert ["hate", "cut", "0.9", "1", "1"] in cells
    assert ["encoder", "4f1d", "1", "0", "0"] in [row[:5] for row in cells]
    assert ["acme", "1", "0", "0", "1", "0"] in cells


def test_a_report_on_nothing_says_so() -> None:
    assert render(Summary()) == "no verdicts"


def test_top_tenants_are_those_with_the_most_finds() -> None:
    passed = [verdict(n, tenant=f"t{n}") for n in range(20)]
    flagged = [verdict(100 + n, tenant=f"t{n % 3}", action="flag") for n in range(5)]
    lines = render(summed(*passed, *flagged)).splitlines()
    tenants = next(n for n, line in enumerate(lines) if line.startswith("texts by tenant (10 of 20"))
    assert [line.split()[0] for line in lines[tenants + 1 : tenants + 5]] == ["t0", "t1", "t2", "t10"]


def test_the_json_form_has_it_all_in_plain_values() -> None:
    told = json.loads(json.dumps(as_json(summed(verdict(0), CUT, CUT_STRETCH, REFUSED))))
    assert told["texts"] == {"input": {"refuse": 1}, "output": {"cut": 1, "pass": 1}}
    assert told["categories"] == {"hate": {"input": {"refuse": 1}, "output": {"cut": 1}}}
    assert {"category": "hate", "for": "cut", "threshold": 0.9, "below": 1, "above": 1} in told["thresholds"]
    assert told["scores"]["hate"] == {"0.85": 1, "0.93": 1}
    assert told["waits_ms"]["output"]["max"] == 2.0
