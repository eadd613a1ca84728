"""A question to another service over the log, and its answer."""

import asyncio

from services.gateway.errors import unavailable
from services.gateway.replies import AnyReply, Replies
from shared.errors import AppendError
from shared.log import LogWriter
from shared.records import Query
from shared.telemetry import inject
from shared.topics import Topic


async def ask(
    writer: LogWriter, replies: Replies, topic: Topic, query: Query, *, timeout_s: float, silence: str
) -> AnyReply:
    """The answer to `query`, which names where it is to go: `replies.address`. Raises ApiError 503, whose message is
    `silence`, when none comes within `timeout_s`."""
    with replies.expect(query.correlation_id) as reply:
        try:
            async with asyncio.timeout(timeout_s):
                await writer.append(topic, query, trace=inject())
                return await reply
        except (TimeoutError, AppendError) as error:
            raise unavailable(silence) from error
