"""From what a backend says of a window to scores and findings. Pure."""

from collections.abc import Mapping

from services.moderation.backends.port import Judgement
from services.moderation.policy import Policy
from services.moderation.windows import Finding, Window


def scores_of(policy: Policy, judgement: Judgement) -> dict[str, float]:
    """The highest score of each category; `combine: any` lets what the backend itself calls a violation count as one.

    Scores are rounded as verdicts tell them, so that a verdict never contradicts what was done."""
    scores = {category: round(score, 4) for category, score in judgement.scores.items()}
    for span in judgement.spans:
        scores[span.category] = max(scores.get(span.category, 0.0), round(span.score, 4))
    if policy.combine == "any":
        for category in judgement.flagged & policy.categories.keys():
            scores[category] = max(scores.get(category, 0.0), policy.categories[category].thresholds.flag)
    return scores


def placed_findings(policy: Policy, judgement: Judgement, window: Window, backend: str) -> list[Finding]:
    """Those whose places the backend knows. One that reaches the window's end is open: more text may make it longer.
    One that begins with a window in the middle of the text is the rest of something that an earlier window had whole:
    the tail of a long number looks like a short one."""
    return [
        Finding(
            span.category,
            window.start + span.start,
            window.start + span.end,
            score,
            open=window.start + span.end == window.end and not window.final,
            backend=backend,
        )
        for span, score in ((span, round(span.score, 4)) for span in judgement.spans)
        if (span.start > 0 or window.start == 0) and action_of(policy, window, span.category, score) != "off"
    ]


def whole_findings(
    policy: Policy, judgement: Judgement, scores: Mapping[str, float], window: Window, backend: str
) -> list[Finding]:
    """Those whose places the backend does not know: the whole window."""
    placed = {span.category for span in judgement.spans}
    return [
        Finding(category, window.start, window.end, score, backend=backend)
        for category, score in sorted(scores.items())
        if category not in placed and action_of(policy, window, category, score) != "off"
    ]


def action_of(policy: Policy, window: Window, category: str, score: float) -> str:
    """What the policy does about such a score in the window's stage."""
    decide = policy.input_action if window.stage == "input" else policy.output_action
    return decide(category, score)


def merge_highest(into: dict[str, float], scores: Mapping[str, float]) -> None:
    """Raise each category of `into` to its score."""
    for category, score in scores.items():
        into[category] = max(into.get(category, 0.0), score)
