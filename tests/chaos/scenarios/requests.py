"""Requests that scenarios send beside the streams they read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.chaos.clients import Gateway, StreamClient
from tests.chaos.scenarios.stage import PATIENCE_S, Question, Stage
from tests.chaos.wire import request

UNDER_WAY = 4
"""Events after which a stream certainly runs: created, in progress, the output item, its part."""
_POLL_S = 0.05


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
