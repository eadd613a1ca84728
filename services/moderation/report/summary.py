"""From verdicts to what an operator wants to know of them. Pure; holds no text, for verdicts have none.

Verdicts speak of two things. Those on an input, and on each stretch of output, say what became of that text; that of a
stretch names no category. Those on a single find in the output name its category. So texts are counted by the former,
categories by the latter and by inputs.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from services.moderation.report.latencies import Latencies
from services.moderation.report.seen import Seen
from shared.records import BackendReport, Verdict

BUCKETS = 100
"""Of the scores below 1. Another one has 1 itself, the score of patterns: to them it does not matter if a threshold is
moved a little, so they are not near any but 1."""
NEAR = 0.1
"""Scores up to so far from a threshold are counted apart: they change sides when it is moved."""
QUANTILES = (0.5, 0.95, 0.99)


@dataclass
class OfBackend:
    """How a backend answered. Late and failed ones took as long as they were waited for."""

    answers: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)

    def add(self, report: BackendReport) -> None:
        self.answers[report.status] += 1
        self.latencies.add(report.latency_ms)


class Summary:
    """Adds up. Its size follows from how many categories, policies, tenants and backends there are."""

    def __init__(self, tenant: str | None = None) -> None:
        """`tenant`: count nobody else's."""
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self.verdicts = 0
        self.repeated = 0
        self.texts: Counter[tuple[str, str]] = Counter()  # stage, action
        self.categories: Counter[tuple[str, str, str]] = Counter()  # category, stage, action
        self.policies: Counter[tuple[str, str]] = Counter()  # policy, action of a text
        self.tenants: Counter[tuple[str, str]] = Counter()  # tenant, action of a text
        self.backends: defaultdict[tuple[str, str], OfBackend] = defaultdict(OfBackend)  # name, revision
        self.scores: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (BUCKETS + 1))  # category → bucket → texts
        self.thresholds: set[tuple[str, str, float]] = set()  # category, what it is for, score
        self.waits: defaultdict[str, Latencies] = defaultdict(Latencies)  # stage
        self._tenant = tenant
        self._seen = Seen()

    def add(self, verdict: Verdict, at_ms: int) -> bool:
        """Count a verdict that was recorded at `at_ms` (unix); whether it counts."""
        if self._tenant not in (None, verdict.tenant):
            return False
        if not self._seen.first(verdict.verdict_id):
            self.repeated += 1
            return False
        self.verdicts += 1
        self.first_ms = at_ms if self.first_ms is None else min(at_ms, self.first_ms)
        self.last_ms = at_ms if self.last_ms is None else max(at_ms, self.last_ms)
        self._add_thresholds(verdict)
        if verdict.category is not None:
            self.categories[verdict.category, verdict.stage, verdict.action] += 1
        if is_on_a_text(verdict):
            self._add_text(verdict)
        return True

    def near(self, category: str, threshold: float) -> tuple[int, int]:
        """How many texts scored less than NEAR below the threshold, and up to NEAR above it."""
        scores, at, width = self.scores.get(category, []), round(threshold * BUCKETS), round(NEAR * BUCKETS)
        above = max(at + 1, min(at + width, BUCKETS))
        return sum(scores[max(0, at - width) : at]), sum(scores[at:above])

    def _add_text(self, verdict: Verdict) -> None:
        self.texts[verdict.stage, verdict.action] += 1
        self.policies[verdict.policy, verdict.action] += 1
        self.tenants[verdict.tenant, verdict.action] += 1
        self.waits[verdict.stage].add(verdict.latency_ms)
        for category, score in verdict.scores.items():
            self.scores[category][int(score * BUCKETS + 1e-9)] += 1
        for report in verdict.backends:
            self.backends[report.name, report.revision].add(report)

    def _add_thresholds(self, verdict: Verdict) -> None:
        acted_on = verdict.category if verdict.action not in ("pass", "flag") else None
        self.thresholds.update(
            (category, verdict.action if category == acted_on else "flag", threshold)
            for category, threshold in verdict.thresholds.items()
        )


def is_on_a_text(verdict: Verdict) -> bool:
    """Whether it speaks of a whole input or stretch of output, not of a single find in it."""
    return verdict.stage == "input" or verdict.category is None


def did_something(verdict: Verdict) -> bool:
    """Whether it is about one thing that was found, or an input that nobody could judge."""
    return verdict.action != "pass" and (verdict.category is not None or verdict.stage == "input")


def as_json(summary: Summary) -> dict[str, Any]:
    """The whole summary in plain values; scores by hundredths, only those that occurred."""
    return {
        "first_ms": summary.first_ms,
        "last_ms": summary.last_ms,
        "verdicts": summary.verdicts,
        "repeated": summary.repeated,
        "texts": _nested(summary.texts),
        "categories": _nested(summary.categories),
        "policies": _nested(summary.policies),
        "tenants": _nested(summary.tenants),
        "waits_ms": {stage: _quantiles(waits) for stage, waits in sorted(summary.waits.items())},
        "backends": [
            {"name": name, "revision": revision, **of.answers, "latency_ms": _quantiles(of.latencies)}
            for (name, revision), of in sorted(summary.backends.items())
        ],
        "thresholds": [
            {"category": category, "for": what, "threshold": threshold, "below": below, "above": above}
            for category, what, threshold in sorted(summary.thresholds)
            for below, above in (summary.near(category, threshold),)
        ],
        "scores": {
            category: {f"{bucket / BUCKETS:.2f}": count for bucket, count in enumerate(counts) if count}
            for category, counts in sorted(summary.scores.items())
        },
    }


def _quantiles(latencies: Latencies) -> dict[str, float]:
    shares = {f"p{share * 100:g}": round(latencies.quantile(share), 3) for share in QUANTILES}
    return {**shares, "max": round(latencies.max_ms, 3)}


def _nested(counts: Counter[Any]) -> dict[str, Any]:
    """Counts by tuples as mappings in mappings."""
    nested: dict[str, Any] = {}
    for (*path, last), count in sorted(counts.items()):
        inner = nested
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = count
    return nested
