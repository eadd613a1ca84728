"""From decisions to the `verdict` records that auditors read. Pure; no text in them.

A verdict's id is derived from what was decided: an owner that takes over and judges again names it alike, so that
auditors count it once. `latency_ms`: how long the text waited for this decision.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.moderation.judging import InputVerdict
from services.moderation.policy import Policy
from services.moderation.windows import Decision, Stage, Stretch
from shared.records import BackendReport, Verdict

VerdictAction = Literal["pass", "flag", "mask", "cut", "refuse"]


class _Place(NamedTuple):
    window: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Trail:
    """The verdicts on one response, whose policy is that of its tenant and request."""

    response_id: str
    tenant: str
    policy: Policy

    def of_input(self, result: InputVerdict, latency_ms: float = 0.0) -> Verdict:
        """The one verdict on the input. `window` is the number (from 0) of the text that decided it, `start` and `end`
        are the place in that text; `scores` has the highest of each category."""
        deciding = result.deciding
        place = _Place(0, 0, 0)
        if deciding is not None:
            place = _Place(deciding.text, deciding.finding.start, deciding.finding.end)
        return self._verdict("input", result.action, result.category, place, result.scores, result.reports, latency_ms)

    def of_unjudged_input(self, result: InputVerdict, latency_ms: float = 0.0) -> Verdict:
        """Nothing passes, because a backend is missing that must not be: no category is named."""
        return self._verdict("input", "refuse", None, _Place(0, 0, 0), {}, result.reports, latency_ms)

    def of_stretch(
        self,
        stretch: Stretch,
        scores: Mapping[str, float],
        reports: Iterable[BackendReport] = (),
        latency_ms: float = 0.0,
    ) -> Verdict:
        """On a whole stretch of output, whatever was found in it: no category is named, `scores` has all of them."""
        place = _Place(stretch.window, stretch.start, stretch.end)
        return self._verdict("output", stretch.action, None, place, scores, reports, latency_ms)

    def of_decision(
        self, decision: Decision, reports: Iterable[BackendReport] = (), latency_ms: float = 0.0
    ) -> Verdict:
        """On one thing that was flagged, masked or cut: what it is, where in the raw text, by which window, and, if a
        backend found it, by which."""
        place = _Place(decision.window, decision.start, decision.end)
        finder = [report for report in reports if report.name == decision.backend]
        scores = {decision.category: decision.score}
        return self._verdict("output", decision.action, decision.category, place, scores, finder, latency_ms)

    def _verdict(
        self,
        stage: Stage,
        action: VerdictAction,
        category: str | None,
        place: _Place,
        scores: Mapping[str, float],
        reports: Iterable[BackendReport],
        latency_ms: float,
    ) -> Verdict:
        decided: Sequence[object] = (self.response_id, self.policy.name, stage, action, category or "", *place)
        return Verdict(
            verdict_id=_verdict_id(decided),
            response_id=self.response_id,
            tenant=self.tenant,
            stage=stage,
            action=action,
            policy=self.policy.name,
            window=place.window,
            start=place.start,
            end=place.end,
            latency_ms=latency_ms,
            category=category,
            scores=dict(scores),
            thresholds=self._thresholds(scores, action, category),
            backends=list(reports),
        )

    def _thresholds(self, scores: Mapping[str, float], action: VerdictAction, category: str | None) -> dict[str, float]:
        """What each score was held against: the threshold of what was done for what decided, that of a flag else."""
        return {
            scored: self._threshold(scored, action if scored == category else "flag")
            for scored in scores
            if scored in self.policy.categories
        }

    def _threshold(self, category: str, action: VerdictAction) -> float:
        thresholds = self.policy.categories[category].thresholds
        match action:
            case "refuse":
                return thresholds.refuse_from
            case "cut" | "mask":
                return thresholds.cut
            case _:
                return thresholds.flag


def _verdict_id(decided: Sequence[object]) -> str:
    # No part can hold a line break, so the joined form is unambiguous.
    return "modr_" + hashlib.sha256("\n".join(map(str, decided)).encode()).hexdigest()[:32]
