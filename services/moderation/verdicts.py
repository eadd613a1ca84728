"""From decisions to the `verdict` records that auditors read. Pure; no text in them.

A verdict's id is derived from what was decided: an owner that takes over and judges again names it alike, so that
auditors count it once. `latency_ms`: how long the text waited for this decision.
"""

import hashlib
from typing import Literal

from services.moderation.classifiers.inputs import InputVerdict
from services.moderation.policy import Policy
from services.moderation.windows import Outcome, Stage
from shared.records import Verdict

VerdictAction = Literal["pass", "flag", "mask", "cut", "refuse"]


def input_verdict(
    response_id: str, tenant: str, policy: Policy, result: InputVerdict, latency_ms: float = 0.0
) -> Verdict:
    """The one verdict on a response's input. `window` is the number (from 0) of the text that decided it, `start`
    and `end` are the place in that text; `scores` has the highest score of each category found."""
    scores: dict[str, float] = {}
    for item in result.findings:
        category = item.finding.category
        scores[category] = max(scores.get(category, 0.0), item.finding.score)
    deciding = result.deciding
    place = (0, 0, 0) if deciding is None else (deciding.text, deciding.finding.start, deciding.finding.end)
    return _verdict(
        (response_id, tenant, policy.name), "input", result.action, result.category, place, scores, latency_ms
    )


def output_verdicts(
    response_id: str, tenant: str, policy: Policy, outcome: Outcome, latency_ms: float = 0.0
) -> list[Verdict]:
    """One verdict for each flag, mask and cut of the outcome: what was found, where in the raw text, by which
    window."""
    return [
        _verdict(
            (response_id, tenant, policy.name),
            "output",
            decision.action,
            decision.category,
            (decision.window, decision.start, decision.end),
            {decision.category: decision.score},
            latency_ms,
        )
        for decision in outcome.decisions
    ]


def passed_verdict(response_id: str, tenant: str, policy: Policy, end: int, latency_ms: float = 0.0) -> Verdict:
    """The verdict on an output of `end` raw code points that came to its end uncut, with its final window."""
    place = (end // policy.streaming.stride, 0, end)
    return _verdict((response_id, tenant, policy.name), "output", "pass", None, place, {}, latency_ms)


def _verdict(
    subject: tuple[str, str, str],
    stage: Stage,
    action: VerdictAction,
    category: str | None,
    place: tuple[int, int, int],
    scores: dict[str, float],
    latency_ms: float,
) -> Verdict:
    response_id, tenant, policy = subject
    window, start, end = place
    return Verdict(
        verdict_id=_verdict_id(response_id, policy, stage, action, category or "", *map(str, place)),
        response_id=response_id,
        tenant=tenant,
        stage=stage,
        action=action,
        policy=policy,
        window=window,
        start=start,
        end=end,
        latency_ms=latency_ms,
        category=category,
        scores=scores,
    )


def _verdict_id(*decided: str) -> str:
    # No part can hold a line break, so the joined form is unambiguous.
    return "modr_" + hashlib.sha256("\n".join(decided).encode()).hexdigest()[:32]
