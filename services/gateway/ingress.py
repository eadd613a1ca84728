"""A valid request on its way into the mesh: mint the id, follow it, append it, wait for the first word about it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.gateway.admission import Admission
from services.gateway.api.errors import ApiError, server_error, unavailable
from services.gateway.auth import Caller
from services.gateway.catalogue import served_models
from services.gateway.fanout import Fanout, Lease, Stream
from services.gateway.presence import JournalPresence
from services.gateway.projections import RESPONSES, Dialect
from services.gateway.prompt import Fitted, fit
from services.gateway.replies import AnyReply, Replies
from services.gateway.settings import GatewaySettings
from shared.chat import ChatTokenizer
from shared.errors import AppendError
from shared.heartbeats import Cluster
from shared.ids import ResponseId, new_response_id
from shared.log import LogWriter
from shared.records import ContextRequested, Message, Record, Rejected, Requested, ResponseSpec
from shared.telemetry import inject, names
from shared.topics import CONTEXT, JOURNAL, Topic

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("chatmesh.gateway")


@dataclass(frozen=True)
class Ingress:
    """Everything that a request passes before its HTTP status is known."""

    settings: GatewaySettings
    admission: Admission
    tokenizer: ChatTokenizer
    cluster: Cluster
    fanout: Fanout
    writer: LogWriter
    replies: Replies
    presence: JournalPresence
    _left: set["asyncio.Task[Lease]"] = field(default_factory=set)

    async def submit(
        self,
        caller: Caller,
        spec: ResponseSpec,
        context: Sequence[Message] | None = None,
        *,
        dialect: Dialect[Any] | None = RESPONSES,
    ) -> Lease:
        """Request the response; returns once it was accepted, with its stream.

        `context`: the messages before this request's, where the gateway knows them itself; None leaves them to
        history. `dialect`: in which the response will be read as it comes; None for one that is wanted whole.
        Raises ApiError: what admission, validation, screening or history refused, or the deadline.
        """
        introduction = asyncio.create_task(self._introduced(caller, spec, context, dialect), name="introduce")
        try:
            return await asyncio.shield(introduction)
        except asyncio.CancelledError:
            self._see_off(introduction, needs_history=context is None and _needs_context(spec))
            raise

    async def submit_all(
        self, caller: Caller, specs: Sequence[ResponseSpec], dialect: Dialect[Any] | None = RESPONSES
    ) -> list[Lease]:
        """Request the choices of one request side by side: all are accepted, or none goes on.

        Raises ApiError: what the first one that was refused was told.
        """
        choices = [asyncio.create_task(self.submit(caller, spec, dialect=dialect), name="choice") for spec in specs]
        try:
            ends = await asyncio.gather(*choices, return_exceptions=True)
        except asyncio.CancelledError:  # so are the choices
            for end in await asyncio.gather(*choices, return_exceptions=True):
                if isinstance(end, Lease):
                    end.release()
            raise
        leases = [end for end in ends if isinstance(end, Lease)]
        errors = [end for end in ends if isinstance(end, BaseException)]
        if errors:
            for lease in leases:
                self._give_up(lease)
            raise errors[0]
        return leases

    def _give_up(self, lease: Lease) -> None:
        """Leave a response that nobody has heard of: no grace, it is cancelled."""
        self.presence.cancel(lease.stream.id)
        lease.stream.counted = False
        lease.release()

    async def stop(self) -> None:
        """Give up the introductions whose clients left."""
        for task in self._left:
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    def _see_off(self, introduction: "asyncio.Task[Lease]", *, needs_history: bool) -> None:
        """The client left. While history assembles the context, the journal has no `requested` yet and would ignore a
        `detached`: such an introduction goes on until the response was accepted or refused, and leaves then."""
        if not needs_history:
            introduction.cancel()
        self._left.add(introduction)
        introduction.add_done_callback(self._gone)

    def _gone(self, introduction: "asyncio.Task[Lease]") -> None:
        self._left.discard(introduction)
        if introduction.cancelled():
            return
        error = introduction.exception()
        if error is None:
            introduction.result().release()
        elif not isinstance(error, ApiError):
            log.error("an introduction failed after its client had left", exc_info=error)

    async def _introduced(
        self, caller: Caller, spec: ResponseSpec, context: Sequence[Message] | None, dialect: Dialect[Any] | None
    ) -> Lease:
        window = self._window(spec.model)
        with self.admission.entry():
            # Tokenizing a megabyte takes long enough to stall every stream of this process.
            fitted = await asyncio.to_thread(fit, self.tokenizer, spec, window, context or ())
            response_id = new_response_id(self.fanout.next_partition())
            request = self._request(response_id, caller, fitted)
            topic = CONTEXT if context is None and _needs_context(spec) else JOURNAL
            lease = self.fanout.open(response_id, dialect)
            try:
                await self._introduce(lease.stream, request, topic)
            except BaseException:
                lease.release()
                raise
            return lease

    def _window(self, model: str) -> int:
        """The model's window in tokens: the tokenizer's, or less where a worker's cache is smaller."""
        if model != self.tokenizer.model_id:
            raise ApiError(
                404,
                f"The model '{model[:200]}' does not exist. This server serves '{self.tokenizer.model_id}'.",
                code="model_not_found",
                param="model",
            )
        served = [found.context_window for found in served_models(self.cluster) if found.id == model]
        return min([self.tokenizer.context_window, *(window for window in served if window)])

    def _request(self, response_id: ResponseId, caller: Caller, fitted: Fitted) -> Requested:
        spec = fitted.spec
        return Requested(
            response_id=response_id.text,
            tenant=caller.tenant,
            spec=spec,
            created_ms=response_id.created_ms,
            deadline_ms=response_id.created_ms + int(self._deadline_s(spec) * 1000),
            input_tokens=fitted.tokens,
            context=list(fitted.context),
            priority=caller.priority,
            reply_to=self.replies.address,
        )

    def _deadline_s(self, spec: ResponseSpec) -> float:
        return self.settings.background_deadline_s if spec.background else self.settings.deadline_s

    async def _introduce(self, stream: Stream, request: Requested, topic: Topic) -> None:
        """Append the request, to the journal or through history; wait until it is accepted or refused."""
        with self.replies.expect(request.response_id) as reply:
            # Once appended, the journal counts us as a follower (its `reply_to`) until `detached`; a client may
            # leave during the append, and an append that failed may be there all the same.
            stream.counted = not request.spec.background
            await self._append(stream, request, topic)
            try:
                async with asyncio.timeout(self._deadline_s(request.spec)):
                    await _first_word(stream, reply)
            except TimeoutError as error:
                self.presence.cancel(stream.id)
                stream.counted = False
                raise server_error("The response was not accepted before its deadline.") from error
            if stream.accepted is None:
                stream.counted = False
                raise self._refusal(reply.result())

    async def _append(self, stream: Stream, request: Requested, topic: Topic) -> None:
        record: Record = ContextRequested(request=request) if topic is CONTEXT else request
        with _tracer.start_as_current_span(names.send(topic), kind=SpanKind.PRODUCER) as span:
            try:
                appended = await self.writer.append(topic, record, trace=inject())
            except AppendError as error:
                raise unavailable("The message log did not take the request. Try again.") from error
            span.set_attributes(names.messaging(topic, "send", appended.partition, appended.offset))
            span.set_attribute(names.RESPONSE_ID, stream.id.text)

    def _refusal(self, reply: AnyReply) -> ApiError:
        if not isinstance(reply, Rejected):
            return server_error(f"Unexpected reply of type {type(reply).__name__}.")
        retry = {429: self.admission.retry_after_s(), 503: 1}.get(reply.status)
        return ApiError(
            reply.status,
            reply.message,
            code=reply.code,
            param=reply.param,
            error_type=reply.error_type,
            headers={} if retry is None else {"retry-after": str(retry)},
        )


async def _first_word(stream: Stream, reply: "asyncio.Future[AnyReply]") -> None:
    """Return once the response was accepted or a reply came."""
    while stream.accepted is None and not reply.done():
        changed = asyncio.ensure_future(stream.change())
        awaited: list[asyncio.Future[Any]] = [changed, reply]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()


def _needs_context(spec: ResponseSpec) -> bool:
    return spec.previous_response_id is not None or spec.conversation is not None
