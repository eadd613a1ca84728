"""The next turn, asked the moment the last one ended, while history's recorder stands still."""

import asyncio
import math
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from shared.topics import EVENTS, JOURNAL, Service
from tests.chaos.clients import StreamClient
from tests.chaos.evidence import Violation
from tests.chaos.figures import row
from tests.chaos.logrules import folded
from tests.chaos.observations import Opened, by_stream
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.rules import amnesia
from tests.chaos.scenarios.stage import PATIENCE_S, Outcome, Question, Stage

CHAINS = 6
TOKENS = 40
NEARLY_ENDED = 36
"""Events of about 46, a third of a second before the end."""


async def paused_replica(stage: Stage) -> Outcome:
    """One of two history replicas is stopped as a process, with all that it holds."""
    return await _next_turns(stage, "history SIGSTOP", lambda: _stopped(stage))


async def paused_recorder(stage: Stage) -> Outcome:
    """Both replicas live, but neither can write into the store."""
    return await _next_turns(stage, "store locked", lambda: _locked(stage))


async def _next_turns(stage: Stage, name: str, fault: Callable[[], AbstractAsyncContextManager[None]]) -> Outcome:
    """The fault strikes moments before the first turns end: their ends are not recorded, and nobody is missed yet."""
    chains = [await _chain(stage) for _ in range(CHAINS)]
    firsts, followings = [stage.client() for _ in chains], [stage.client() for _ in chains]
    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        asked = [group.create_task(_two_turns(*turns)) for turns in zip(firsts, followings, chains, strict=True)]
        while any(client.events_seen < NEARLY_ENDED for client in firsts):
            await asyncio.sleep(0.01)
        async with fault():
            await asyncio.wait(asked)
    journals, events = await logs.sub_logs(stage.mesh, JOURNAL), await logs.sub_logs(stage.mesh, EVENTS)
    found, waits = list[Violation](), list[float]()
    for first, following in zip(firsts, followings, strict=True):
        waits.append(_opened_s(stage, following.number))
        last_turn = folded(events[first.response_id]).terminal
        found += amnesia(following.response_id, journals[following.response_id], last_turn)
    return Outcome(found, [row(f"next turn, {name}: request to its acceptance", 1, waits)])


async def _chain(stage: Stage) -> tuple[Question, Question]:
    """Two turns; what the second is told depends on the first."""
    (first,) = await stage.questions(1, TOKENS)
    before = (("user", first.prompt), ("assistant", first.text))
    (following,) = await stage.questions(1, TOKENS, before=before)
    return first, following


async def _two_turns(first: StreamClient, following: StreamClient, turns: tuple[Question, Question]) -> None:
    await first.run(turns[0].wanted(), PATIENCE_S)
    await following.run(turns[1].wanted(previous_response_id=first.response_id), PATIENCE_S)


def _opened_s(stage: Stage, stream: int) -> float:
    """From a stream's first request to the answer's status; NaN if there was none."""
    lines = by_stream(stage.notebook.lines)[stream]
    opened = next((line for line in lines if isinstance(line, Opened)), None)
    return math.nan if opened is None else opened.at - opened.sent_at


@asynccontextmanager
async def _stopped(stage: Stage) -> AsyncIterator[None]:
    victim = stage.mesh.of(Service.HISTORY)[0]
    victim.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        victim.process.signal(signal.SIGCONT)
    await stage.mesh.wait_ready()


@asynccontextmanager
async def _locked(stage: Stage) -> AsyncIterator[None]:
    """A writer of our own keeps the store's only write lock; readers go on (WAL)."""
    path = logs.store_file(stage.mesh)
    lock = sqlite3.connect(path, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        yield
        lock.execute("ROLLBACK")
    finally:
        lock.close()
