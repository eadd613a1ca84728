"""What a gateway asks of history, and what it does not know itself: questions and answers over the log."""

from dataclasses import dataclass

from services.gateway.questions import ask
from services.gateway.replies import AnyReply, Replies, expected
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
        silence = "The history of responses does not answer. Try again."
        return await ask(self.writer, self.replies, HISTORY_QUERIES, query, timeout_s=self.timeout_s, silence=silence)
