"""Answers with words that moderation masks, and with words before which it cuts, while workers and owners die."""

import asyncio
import signal

from shared.topics import Service
from tests.chaos.figures import row
from tests.chaos.scenarios.requests import streaming
from tests.chaos.scenarios.rules import slowed
from tests.chaos.scenarios.stage import SILENCE_LIMIT_S, Outcome, Stage

MASKED = 8
CUT = 8
TOKENS = 160
BETWEEN_S = 1.5


async def screened(stage: Stage) -> Outcome:
    """The checker holds what becomes public against the raw text; here a worker and an owner are killed under it."""
    questions = [*await stage.questions(MASKED, TOKENS), *await stage.questions(CUT, TOKENS, cut=True)]
    victims = [stage.mesh.of(service)[0] for service in (Service.INFERENCE, Service.MODERATION)]
    async with streaming(stage, questions) as clients:
        for victim in victims:
            victim.process.signal(signal.SIGKILL)
            await asyncio.sleep(BETWEEN_S)
    for victim in victims:
        stage.mesh.retire(victim)
        stage.mesh.add(victim.service)
    await stage.mesh.wait_ready()
    waits, late = slowed(stage.notebook.lines, [client.number for client in clients], SILENCE_LIMIT_S)
    return Outcome(late, [row("forbidden words, worker and owner SIGKILL: longest silence", len(victims), waits)])
