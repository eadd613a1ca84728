"""What clients and auditors are told of a judgement. Pure."""

from collections.abc import Iterable, Mapping

from services.moderation.judging.judge import Judge
from services.moderation.windows import Stage
from shared.records import MODERATION_CATEGORIES, CategorySource, ModerationResult


def result_of(judge: Judge, scores: Mapping[str, float], failed: Iterable[str], stage: Stage) -> ModerationResult:
    """In OpenAI's categories. A backend that failed scored nothing, but it is named."""
    told = {category: scores.get(category, 0.0) for category in MODERATION_CATEGORIES}
    return ModerationResult(
        policy=judge.policy.name,
        scores=told,
        flagged=[category for category, score in told.items() if judge.policy.flagged(category, score)],
        sources={category: _source(judge, category, stage) for category in MODERATION_CATEGORIES},
        failed=sorted(set(failed)),
    )


def _source(judge: Judge, category: str, stage: Stage) -> CategorySource:
    if category in judge.scored:
        return "model"
    known = judge.policy.categories.get(category)
    if known is None or not known.patterns:
        return "none"
    return "none" if (known.input if stage == "input" else known.output) == "off" else "rules"
