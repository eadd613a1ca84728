"""`/v1/chat/completions`: the same responses, told as Chat Completions."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

from opentelemetry.trace import Span
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.chat_schema import parse_completion
from services.gateway.api.disconnect import until_disconnect
from services.gateway.api.envelope import json_response
from services.gateway.api.idempotency import repeatable_of
from services.gateway.api.parts import Parts
from services.gateway.api.tracing import describe_outcome, describe_request, server_span
from services.gateway.auth import Caller
from services.gateway.errors import ApiError, not_found, server_error
from services.gateway.fanout import Cursor, Stream
from services.gateway.ledger import Repeatable
from services.gateway.meter import Transport
from services.gateway.projections.chat import CHAT, ChatFrames, ChoicePart, completion_object, error_frame
from shared.records import Accepted, AnyTerminal, Failed, ResponseSpec

_ROUTE = "/v1/chat/completions"
_PARAM_OF_FIELD = {"input": "messages", "max_output_tokens": "max_completion_tokens"}


async def create(request: Request, send: Send) -> None:
    """POST /v1/chat/completions."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", _ROUTE) as span:
        caller = parts.authenticator.caller(request)
        asked = await _asked(request, caller)
        describe_request(span, caller, asked.specs[0])
        asked_s = time.perf_counter()

        async def serve() -> None:
            with ExitStack() as held:
                for _ in asked.specs:
                    held.enter_context(parts.admission.slot())
                with _chat_words():
                    dialect = CHAT if asked.stream else None
                    leases = await parts.ingress.submit_all(caller, asked.specs, dialect, repeatable=asked.repeatable)
                for lease in leases:
                    held.enter_context(lease)
                streams = [lease.stream for lease in leases]
                transport: Transport = "sse" if asked.stream else "json"
                # The first choice stands for the completion, as in its id.
                since_s = asked_s if leases[0].opened else None
                telling = held.enter_context(parts.meter.telling(transport, streams[0], since_s))
                try:
                    if asked.stream:
                        cursors = [lease.cursor_in(CHAT) for lease in leases]
                        chunks = _chunks(cursors, include_usage=asked.include_usage)
                        await sse.send_events(chunks, cursors, parts.settings.lag_limit_s, send, telling)
                    else:
                        await sse.reply(await _whole(streams), request, send)
                finally:
                    _describe(span, streams)

        await until_disconnect(request.receive, parts.drain, serve())


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is kept of a request while its completion runs; its body may be large."""

    specs: Sequence[ResponseSpec]
    stream: bool
    include_usage: bool
    repeatable: Repeatable | None


async def _asked(request: Request, caller: Caller) -> _Asked:
    """Raises ApiError 400, 413."""
    parts: Parts = request.app.state.parts
    body = parse_object(await read_body(request, parts.settings.body_limit_bytes))
    command = parse_completion(body)
    repeatable = repeatable_of(request, caller, body)
    return _Asked(command.specs(), command.stream is True, command.include_usage, repeatable)


@contextmanager
def _chat_words() -> Iterator[None]:
    """Name the fields of a refused request as its client does."""
    try:
        yield
    except ApiError as error:
        field = _PARAM_OF_FIELD.get(error.param or "")
        if field is not None:
            error.message = error.message.replace(f"'{error.param}'", f"'{field}'")
            error.param = field
        raise


async def _whole(streams: Sequence[Stream]) -> Response:
    """The completion once all of its choices have ended. Raises ApiError 500 if one failed (DESIGN 9)."""
    ends = [asyncio.ensure_future(_ended(stream)) for stream in streams]
    try:
        return json_response(completion_object(await asyncio.gather(*ends)))
    finally:
        for end in ends:
            end.cancel()


async def _ended(stream: Stream) -> tuple[Accepted, AnyTerminal]:
    while not stream.ended:
        await stream.change()
    accepted, terminal = stream.fold.accepted, stream.fold.terminal
    if accepted is None or terminal is None:
        raise not_found(stream.id.completion_id)  # its tenant deleted it while it ran
    if isinstance(terminal, Failed):
        raise server_error(terminal.message)
    return accepted, terminal


async def _chunks(
    cursors: Sequence[Cursor[ChoicePart]], *, include_usage: bool
) -> AsyncGenerator[Iterable[bytes], None]:
    """The completion as server-sent events. A choice that fails ends them all, without `[DONE]`."""
    first = cursors[0].stream.accepted
    assert first is not None, "the stream begins once all choices were accepted"
    frames = ChatFrames(first, include_usage=include_usage)
    ends: dict[int, tuple[Accepted, AnyTerminal]] = {}
    async with aclosing(_interleaved(cursors)) as batches:
        async for index, parts in batches:
            if parts:
                yield map(partial(frames.chunk, index), parts)
                continue
            fold = cursors[index].stream.fold
            if isinstance(fold.terminal, Failed):
                yield [error_frame(fold.terminal)]
                return
            if fold.accepted is not None and fold.terminal is not None:
                ends[index] = fold.accepted, fold.terminal
    if len(ends) == len(cursors):  # else one was deleted while it ran
        yield frames.end([ends[index] for index in sorted(ends)])


async def _interleaved(
    cursors: Sequence[Cursor[ChoicePart]],
) -> AsyncGenerator[tuple[int, Sequence[ChoicePart]], None]:
    """The batches of all choices as they come, each with its choice's index; an empty one when the choice has ended."""
    if len(cursors) == 1:  # nearly all: a task for each batch would cost more than the batch
        while parts := await cursors[0].batch():
            yield 0, parts
        yield 0, []
        return
    coming = {asyncio.ensure_future(cursor.batch()): index for index, cursor in enumerate(cursors)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for batch in sorted(done, key=coming.__getitem__):
                index = coming.pop(batch)
                parts = batch.result()
                if parts:
                    coming[asyncio.ensure_future(cursors[index].batch())] = index
                yield index, parts
    finally:
        for batch in coming:
            batch.cancel()
        await asyncio.gather(*coming, return_exceptions=True)


def _describe(span: Span, streams: Sequence[Stream]) -> None:
    """The first choice stands for the completion, as in its id."""
    describe_outcome(span, streams[0])
