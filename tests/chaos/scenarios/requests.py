"""Requests that scenarios send beside the streams they read, and the slots that these take."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shared.topics import HEARTBEATS
from tests.chaos.clients import Gateway, StreamClient
from tests.chaos.evidence import Violation
from tests.chaos.observations import now
from tests.chaos.scenarios.rules import Ended, held
from tests.chaos.scenarios.stage import HELD_LIMIT_S, PATIENCE_S, Question, Stage
from tests.chaos.wire import request
from tests.support.logs import records

UNDER_WAY = 4
"""Events after which a stream certainly runs: created, in progress, the output item, its part."""
_POLL_S = 0.05
_FREED_POLL_S = 0.5


async def created(stage: Stage, question: Question, *, at: Gateway | None = None, **more: Any) -> str:
    """Ask without reading; the response's id. Raises AssertionError if the gateway refuses."""
    url = f"{(at or stage.gateways()[0]).url}/responses"
    async with request("POST", url, json=question.wanted(**more)) as answer:
        body = await answer.body()
        assert answer.status == 200, f"{answer.status} {body!r}"
    return str(msgspec.json.decode(body)["id"])


async def cancelled(at: Gateway, response_id: str) -> None:
    """Cancel a response. Raises AssertionError if the gateway refuses."""
    async with request("POST", f"{at.url}/responses/{response_id}/cancel") as answer:
        body = await answer.body()
        assert answer.status == 200, f"{answer.status} {body!r}"


async def freed(stage: Stage, ended: Sequence[Ended]) -> tuple[list[float], list[Violation]]:
    """How long the slots of claims that must go stayed taken, as `held`, once all are free or HELD_LIMIT_S is over."""
    give_up_at = now() + HELD_LIMIT_S
    while True:
        waits, found = held(ended, await records(stage.mesh, HEARTBEATS), HELD_LIMIT_S)
        if not found or now() > give_up_at:
            return waits, found
        await asyncio.sleep(_FREED_POLL_S)


@asynccontextmanager
async def streaming(
    stage: Stage, questions: Sequence[Question], at: Sequence[Gateway] | None = None
) -> AsyncIterator[list[StreamClient]]:
    """Streams that are all under way inside the block; behind it they have ended."""
    clients = [stage.client(None if at is None else lambda: at) for _ in questions]
    async with asyncio.TaskGroup() as group:
        for client, question in zip(clients, questions, strict=True):
            group.create_task(client.run(question.wanted(), PATIENCE_S))
        async with asyncio.timeout(PATIENCE_S):
            while any(client.events_seen <= UNDER_WAY for client in clients):
                await asyncio.sleep(_POLL_S)
        yield clients
