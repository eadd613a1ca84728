"""`/v1/responses` over HTTP: JSON and server-sent events."""

import time
from collections.abc import AsyncGenerator, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.disconnect import until_disconnect
from services.gateway.api.envelope import json_response
from services.gateway.api.idempotency import repeatable_of
from services.gateway.api.item_references import resolve
from services.gateway.api.parts import Parts
from services.gateway.api.query import check_include, check_obfuscation, flag
from services.gateway.api.schema import parse_create
from services.gateway.api.tracing import describe_outcome, describe_request, resuming, server_span
from services.gateway.auth import Caller
from services.gateway.errors import bad_request, server_error
from services.gateway.fanout import Cursor, Lease, Stream
from services.gateway.ledger import Repeatable
from services.gateway.meter import Transport
from services.gateway.projections import ClientEvent, ResponsesProjection, stored_events
from shared.records import Failed, ResponseSpec


async def create(request: Request, send: Send) -> None:
    """POST /v1/responses."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/responses") as span:
        caller = parts.authenticator.caller(request)
        spec, stream, repeatable = await _asked(request, caller)
        describe_request(span, caller, spec)
        asked_s = time.perf_counter()

        async def serve() -> None:
            transport: Transport = "sse" if stream else "json"
            with (
                parts.admission.slot(),
                await parts.ingress.submit(caller, spec, repeatable=repeatable) as lease,
                parts.meter.telling(transport, lease.stream, asked_s if lease.opened else None) as telling,
            ):
                try:
                    if stream:
                        cursor = lease.cursor()
                        await sse.send_events(_events(cursor), [cursor], parts.settings.lag_limit_s, send, telling)
                    else:
                        await sse.reply(await _final(lease.stream, wait=not spec.background), request, send)
                finally:
                    describe_outcome(span, lease.stream)

        await until_disconnect(request.receive, parts.drain, serve())


async def _asked(request: Request, caller: Caller) -> tuple[ResponseSpec, bool, Repeatable | None]:
    """The response that is wanted, whether as a stream, and what makes the request the same as another one: all that
    is kept of a body, which may be large, while the response runs. Raises ApiError 400, 404, 413."""
    parts: Parts = request.app.state.parts
    body = parse_object(await read_body(request, parts.settings.body_limit_bytes))
    command = parse_create(body)
    repeatable = repeatable_of(request, caller, body)
    given = await resolve(parts, caller, command.input, command.named_conversation())
    return command.model_copy(update={"input": given}).spec(), command.stream is True, repeatable


async def retrieve(request: Request, send: Send) -> None:
    """GET /v1/responses/{id}, with `stream=true` its events behind `starting_after`, then live."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", "/v1/responses/{response_id}"):
        caller = parts.authenticator.caller(request)
        response_id = request.path_params["response_id"]
        check_include(request.query_params)
        check_obfuscation(request.query_params)
        if not flag(request.query_params, "stream"):
            found = await parts.lookup.find(caller, response_id)
            await sse.reply(json_response(found.response()), request, send)
            return
        starting_after = starting_after_of(request.query_params.get("starting_after"))
        followed = await parts.lookup.follow(caller, response_id)
        if isinstance(followed, Lease):
            with followed as lease, parts.admission.slot(), parts.meter.telling("sse", lease.stream) as telling:
                if starting_after >= 0:
                    parts.meter.resumed("sse")
                cursor = lease.cursor(starting_after)
                with resuming(lease.stream, starting_after):
                    sending = sse.send_events(_events(cursor), [cursor], parts.settings.lag_limit_s, send, telling)
                    await until_disconnect(request.receive, parts.drain, sending)
        else:
            events = stored_events(followed.accepted, followed.terminal, starting_after)
            body = b"".join(event.sse() for event in events)
            await sse.reply(Response(body, headers=sse.HEADERS), request, send)


async def cancel(request: Request, send: Send) -> None:
    """POST /v1/responses/{id}/cancel: any running response, where OpenAI cancels those in the background only.

    It takes no slot of the admission: what ends work must not be refused for too much of it.
    """
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/responses/{response_id}/cancel"):
        caller = parts.authenticator.caller(request)

        async def serve() -> None:
            ended = await parts.cancellation.cancel(caller, request.path_params["response_id"])
            await sse.reply(json_response(ended.response()), request, send)

        await until_disconnect(request.receive, parts.drain, serve())


async def delete(request: Request, send: Send) -> None:
    """DELETE /v1/responses/{id}: also of one that still runs, which is cancelled first."""
    parts: Parts = request.app.state.parts
    with server_span(request, "DELETE", "/v1/responses/{response_id}"):
        caller = parts.authenticator.caller(request)

        async def serve() -> None:
            deleted = await parts.deletion.delete(caller, request.path_params["response_id"])
            content = {"id": deleted.text, "object": "response", "deleted": True}
            await sse.reply(json_response(content), request, send)

        await until_disconnect(request.receive, parts.drain, serve())


def starting_after_of(text: str | None) -> int:
    """The sequence number in a query, -1 without one. Raises ApiError 400."""
    if text is None:
        return -1
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_request("'starting_after' must be a sequence number >= 0.", param="starting_after")
    return int(text)


async def _final(stream: Stream, *, wait: bool) -> Response:
    """The Response object, at its end if `wait`. Raises ApiError 500 if it failed (DESIGN 9)."""
    while wait and not stream.ended:
        await stream.change()
    terminal = stream.fold.terminal
    if isinstance(terminal, Failed):
        raise server_error(terminal.message)
    return json_response(ResponsesProjection(stream.id, stream.fold).response())


async def _events(cursor: Cursor[ClientEvent]) -> AsyncGenerator[Iterable[bytes], None]:
    while events := await cursor.batch():
        yield map(ClientEvent.sse, events)
