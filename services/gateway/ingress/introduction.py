"""One response's way into the log: append its request, wait for the first word about it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.gateway.admission import Admission
from services.gateway.errors import ApiError, server_error, unavailable
from services.gateway.fanout import Stream
from services.gateway.presence import JournalPresence
from services.gateway.replies import AnyReply, Replies, refusal
from shared.errors import AppendError
from shared.log import LogWriter
from shared.records import ContextRequested, Rejected, Requested
from shared.telemetry import inject, names, working
from shared.topics import CONTEXT, JOURNAL

_tracer = trace.get_tracer("chatmesh.gateway")


@dataclass(frozen=True)
class Introduction:
    """Requests responses of the mesh."""

    admission: Admission
    writer: LogWriter
    replies: Replies
    presence: JournalPresence

    async def introduce(self, stream: Stream, record: Requested | ContextRequested) -> None:
        """Append the request, to the journal or to history; wait until it is accepted or refused.

        Raises ApiError: what moderation or history refused, 503 if the log takes no request, 500 at the deadline.
        """
        request = record.request if isinstance(record, ContextRequested) else record
        with self.replies.expect(request.response_id) as reply:
            # Once appended, the journal counts us as a follower (its `reply_to`) until `detached`; a client may
            # leave during the append, and an append that failed may be there all the same.
            stream.counted = not request.spec.background
            await self._append(stream, record)
            try:
                async with asyncio.timeout((request.deadline_ms - request.created_ms) / 1000):
                    await _first_word(stream, reply)
            except TimeoutError as error:
                self.presence.cancel(stream.id)
                stream.counted = False
                raise server_error("The response was not accepted before its deadline.") from error
            if stream.accepted is None:
                stream.counted = False
                raise self._refused(reply.result())

    async def _append(self, stream: Stream, record: Requested | ContextRequested) -> None:
        topic = CONTEXT if isinstance(record, ContextRequested) else JOURNAL
        with working(_tracer, names.send(topic), kind=SpanKind.PRODUCER) as span:
            try:
                appended = await self.writer.append(topic, record, trace=inject())
            except AppendError as error:
                raise unavailable("The message log did not take the request. Try again.") from error
            span.set_attributes(names.messaging(topic, "send", appended.partition, appended.offset))
            span.set_attribute(names.RESPONSE_ID, stream.id.text)

    def _refused(self, reply: AnyReply) -> ApiError:
        """An owner that has too much waiting leaves it to the gateways to say when there may be room."""
        full = isinstance(reply, Rejected) and reply.status == 429
        return refusal(reply, retry_s=self.admission.retry_after_s() if full else 1)


async def _first_word(stream: Stream, reply: "asyncio.Future[AnyReply]") -> None:
    """Return once the response was accepted or a reply came."""
    while stream.accepted is None and not reply.done():
        changed = asyncio.ensure_future(stream.change())
        awaited: list[asyncio.Future[Any]] = [changed, reply]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
