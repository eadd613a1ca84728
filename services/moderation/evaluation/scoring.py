"""What a policy makes of whole texts, by the code that judges prompts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.moderation.evaluation.dataset import ANY
from services.moderation.judging import Judge, JudgePool, JudgingUnavailable, hear_input, match_input
from services.moderation.judging.pool import Build
from services.moderation.policy import Policy
from shared.records import Message, ModerationWish

TOGETHER = 64
"""Texts that are judged at a time: enough for every backend to have full batches."""
PATIENCE_S = 600.0
"""Nobody waits here: a backend is not late because the machine is busy."""

Progress = Callable[[int, int], None]
"""Is told how many texts are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The highest score of each category that was found; a category without one has 0."""

    scores: Mapping[str, float]

    def of(self, category: str) -> float:
        """Of `any`: as the backend says, which may know better; else the highest of all."""
        if category == ANY and ANY not in self.scores:
            return max(self.scores.values(), default=0.0)
        return self.scores.get(category, 0.0)


Judges = Callable[[ModerationWish | None], Judge]
"""The policy's judge, as for a request with this wish."""


@asynccontextmanager
async def judges_of(policy: Policy, build: Build) -> AsyncIterator[Judges]:
    """With the policy's backends loaded. Raises SettingsError."""
    backends = {name: spec.model_copy(update={"timeout_s": PATIENCE_S}) for name, spec in policy.backends.items()}
    patient = replace(policy, backends=backends)
    pool = JudgePool(build)
    try:
        await pool.prepare(patient)
        yield lambda wish: pool.judge(patient.asked(wish))
    finally:
        await pool.close()


async def score_texts(judge: Judge, texts: Sequence[str], progress: Progress) -> list[Scored]:
    """In order. Raises JudgingUnavailable if a backend fails, whether the policy is open or closed about that."""
    scored: list[Scored] = []
    for start in range(0, len(texts), TOGETHER):
        scored += await asyncio.gather(*(_score(judge, text) for text in texts[start : start + TOGETHER]))
        progress(len(scored), len(texts))
    return scored


async def _score(judge: Judge, text: str) -> Scored:
    # Not `judge_input`: it asks no backend about what patterns refuse.
    messages = [Message(role="user", parts=[text])]
    verdict = await hear_input(judge, messages, await match_input(judge, messages))
    for name in verdict.failed:
        raise JudgingUnavailable(name)
    return Scored(verdict.scores)
