"""`gateway.replies`: the answers of moderation and history to this gateway.

A plain `Tail` and not a FastStream subscriber: a gateway may ask only once its partition's end is fixed (an answer
that comes before would be lost), and that partition follows from its id at run time; FastStream fixes partitions when
a subscriber is declared and positions them lazily.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from services.gateway.errors import ApiError, retry_after, server_error
from shared.errors import RecordError
from shared.log import Tail, decode
from shared.log.writer import partition_of_key
from shared.records import (
    ConversationErased,
    ConversationFound,
    InputCounted,
    ItemsFound,
    Moderated,
    Rejected,
    Reply,
    ReplyAddress,
    ResponseErased,
    ResponseFound,
)
from shared.settings import MeshSettings
from shared.telemetry.metrics import Metrics
from shared.topics import REPLIES, Service

log = logging.getLogger(__name__)

AnyReply = (
    Rejected
    | ResponseFound
    | ResponseErased
    | InputCounted
    | ConversationFound
    | ConversationErased
    | ItemsFound
    | Moderated
)
A = TypeVar("A", bound=AnyReply)


class Replies:
    """Waits for replies by correlation id; unknown ids, and those of other gateways, are dropped."""

    def __init__(self, settings: MeshSettings, gateway_id: str, *, metrics: Metrics | None = None) -> None:
        self.address = ReplyAddress(gateway=gateway_id, partition=partition_of_key(gateway_id, settings.partitions))
        self._tail = Tail(settings, Service.GATEWAY, REPLIES, skips_gone=True, metrics=metrics)
        self._waiting: dict[str, asyncio.Future[AnyReply]] = {}

    async def start(self) -> None:
        """When this returns, no later reply is missed."""
        await self._tail.start({self.address.partition: None})

    async def stop(self) -> None:
        """Disconnect."""
        await self._tail.stop()

    @contextmanager
    def expect(self, correlation_id: str) -> Iterator[asyncio.Future[AnyReply]]:
        """The future of the reply; call before asking."""
        future: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = future
        try:
            yield future
        finally:
            del self._waiting[correlation_id]

    def deliver(self, reply: Reply) -> None:
        """Hand a reply to whom it is for, if somebody still waits."""
        future = self._waiting.get(reply.correlation_id)
        if future is not None and not future.done() and isinstance(reply, AnyReply):
            future.set_result(reply)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async for batch in self._tail.batches():
            for record in batch:
                if record.key != self.address.gateway:
                    continue
                try:
                    self.deliver(decode(REPLIES, record).record)
                except RecordError as error:
                    log.error("unreadable reply at %d/%d: %s", record.partition, record.offset, error)


def refusal(reply: AnyReply, *, retry_s: int = 1) -> ApiError:
    """What another service refused, as its client reads it; `retry_s`: when to come again, where that may help.

    Any other reply is one that nobody asked for: ApiError 500.
    """
    if not isinstance(reply, Rejected):
        return server_error(f"Unexpected reply of type {type(reply).__name__}.")
    return ApiError(
        reply.status,
        reply.message,
        code=reply.code,
        param=reply.param,
        error_type=reply.error_type,
        headers=retry_after(1000 * retry_s) if reply.status in (429, 503) else None,
    )


def expected(kind: type[A], answer: AnyReply) -> A:
    """`answer`, if it is one of these. Raises ApiError: what the other service refused, 500 for what nobody asked
    for."""
    if isinstance(answer, kind):
        return answer
    raise refusal(answer)
