"""What a gateway asks of history, and what it does not know itself: questions and answers over the log."""

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from services.gateway.errors import unavailable
from services.gateway.replies import AnyReply, Replies, refusal
from shared.errors import AppendError
from shared.ids import ResponseId, new_id, now_ms
from shared.log import LogWriter
from shared.records import (
    CountInput,
    EraseResponse,
    GetResponse,
    InputCounted,
    Query,
    Rejected,
    ResponseErased,
    ResponseFound,
    ResponseSpec,
)
from shared.telemetry import inject
from shared.topics import HISTORY_QUERIES


@dataclass(frozen=True)
class History:
    """Every method raises ApiError 503 when no answer comes within `timeout_s`."""

    writer: LogWriter
    replies: Replies
    timeout_s: float

    async def response(self, tenant: str, response_id: ResponseId) -> ResponseFound | None:
        """How a response of the tenant's began and ended; None if there is none."""
        answer = await self.ask(
            GetResponse(
                correlation_id=new_id("query"),
                reply_to=self.replies.address,
                tenant=tenant,
                response_id=response_id.text,
            )
        )
        if isinstance(answer, Rejected) and answer.status == 404:
            return None
        return expected(ResponseFound, answer)

    async def erase(self, tenant: str, response_id: ResponseId) -> None:
        """When this returns, the store has nothing of the response and takes nothing of it any more."""
        answer = await self.ask(
            EraseResponse(
                correlation_id=new_id("query"),
                reply_to=self.replies.address,
                tenant=tenant,
                response_id=response_id.text,
            )
        )
        expected(ResponseErased, answer)

    async def count_input(self, tenant: str, spec: ResponseSpec) -> int:
        """The tokens of the prompt that `spec` would have with its stored context. Raises what a request would."""
        answer = await self.ask(
            CountInput(
                correlation_id=new_id("query"),
                reply_to=self.replies.address,
                tenant=tenant,
                spec=spec,
                deadline_ms=now_ms() + int(self.timeout_s * 1000),
            )
        )
        return expected(InputCounted, answer).input_tokens

    async def ask(self, query: Query) -> AnyReply:
        """The answer to `query`, which names where it is to go: `replies.address`."""
        with self.replies.expect(query.correlation_id) as reply:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await self.writer.append(HISTORY_QUERIES, query, trace=inject())
                    return await reply
            except (TimeoutError, AppendError) as error:
                raise unavailable("The history of responses does not answer. Try again.") from error


A = TypeVar("A", bound=AnyReply)


def expected(kind: type[A], answer: AnyReply) -> A:
    """`answer`, if it is one of these. Raises ApiError: what history refused, 500 for what nobody asked for."""
    if isinstance(answer, kind):
        return answer
    raise refusal(answer)
