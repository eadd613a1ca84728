"""Judging by a policy: its patterns at once, its backends as they answer."""

from services.moderation.judging.batcher import Answer, Batcher, Urgency
from services.moderation.judging.inputs import (
    InputFinding,
    InputVerdict,
    context_before,
    hear_input,
    judge_input,
    judge_texts,
    match_input,
)
from services.moderation.judging.judge import Context, Heard, Judge, JudgingUnavailable, Seat
from services.moderation.judging.pool import JudgePool
from services.moderation.judging.results import result_of

__all__ = [
    "Answer",
    "Batcher",
    "Context",
    "Heard",
    "InputFinding",
    "InputVerdict",
    "Judge",
    "JudgePool",
    "JudgingUnavailable",
    "Seat",
    "Urgency",
    "context_before",
    "hear_input",
    "judge_input",
    "judge_texts",
    "match_input",
    "result_of",
]
