"""`/v1/responses` over HTTP: JSON and server-sent events."""

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.api.body import parse_object, read_body
from services.gateway.api.disconnect import until_disconnect
from services.gateway.api.errors import ApiError, bad_request, json_response, server_error
from services.gateway.api.parts import Parts
from services.gateway.api.patience import Patience
from services.gateway.api.schema import parse_create
from services.gateway.api.tracing import describe_outcome, describe_request, server_span
from services.gateway.fanout import Cursor, Lease, Stream, StreamLostError
from services.gateway.projections import ClientEvent, ResponsesProjection, stored_events
from shared.errors import LogError
from shared.records import Failed

log = logging.getLogger(__name__)

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Reverse proxies such as nginx would collect the events otherwise.
    (b"x-accel-buffering", b"no"),
]


class Endpoint:
    """An ASGI endpoint around `handle(request, send)`: what it holds is held until its last byte was sent.

    An ApiError after the reply began breaks the connection off: the last chunk is never sent, so that no client takes
    a part for the whole.
    """

    def __init__(self, handle: Callable[[Request, Send], Awaitable[None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._handle(Request(scope, receive, send), noticed)
        except ApiError:
            if not begun:
                raise


async def create(request: Request, send: Send) -> None:
    """POST /v1/responses."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/responses") as span:
        caller = parts.authenticator.caller(request)
        command = parse_create(parse_object(await read_body(request, parts.settings.body_limit_bytes)))
        spec = command.spec()
        describe_request(span, caller, spec)

        async def serve() -> None:
            with parts.admission.slot(), await parts.ingress.submit(caller, spec) as lease:
                try:
                    if command.stream:
                        await _stream(lease.cursor(), parts.settings.lag_limit_s, send)
                    else:
                        await _reply(await _final(lease.stream, wait=not spec.background), request, send)
                finally:
                    describe_outcome(span, lease.stream.id.text, lease.stream.fold.terminal)

        await until_disconnect(request.receive, parts.drain, serve())


async def retrieve(request: Request, send: Send) -> None:
    """GET /v1/responses/{id}, with `stream=true` its events behind `starting_after`, then live."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", "/v1/responses/{response_id}"):
        caller = parts.authenticator.caller(request)
        response_id = request.path_params["response_id"]
        if not _flag(request, "stream"):
            found = await parts.lookup.find(caller, response_id)
            await _reply(json_response(found.response()), request, send)
            return
        starting_after = starting_after_of(request.query_params.get("starting_after"))
        followed = await parts.lookup.follow(caller, response_id)
        if isinstance(followed, Lease):
            with parts.admission.slot(), followed as lease:
                cursor = lease.cursor(starting_after)
                await until_disconnect(request.receive, parts.drain, _stream(cursor, parts.settings.lag_limit_s, send))
        else:
            events = stored_events(followed.accepted, followed.terminal, starting_after)
            body = b"".join(event.sse() for event in events)
            await _reply(Response(body, headers=_decoded(_SSE_HEADERS)), request, send)


async def cancel(request: Request, send: Send) -> None:
    """POST /v1/responses/{id}/cancel: any running response, where OpenAI cancels those in the background only.

    It takes no slot of the admission: what ends work must not be refused for too much of it.
    """
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/responses/{response_id}/cancel"):
        caller = parts.authenticator.caller(request)

        async def serve() -> None:
            ended = await parts.cancellation.cancel(caller, request.path_params["response_id"])
            await _reply(json_response(ended.response()), request, send)

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


async def _stream(cursor: Cursor[ClientEvent], lag_limit_s: float, send: Send) -> None:
    """Write events until the response ends.

    A reader that lags past the limit, or a log that gives no more, breaks the connection off: the last chunk is
    never sent, so that no client takes a part for the whole.
    """
    await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
    patience = Patience(lag_limit_s)
    try:
        while events := await cursor.batch():
            for event in events:
                with patience:
                    await send({"type": "http.response.body", "body": event.sse(), "more_body": True})
            if cursor.lag_s() > lag_limit_s:
                raise TimeoutError
    except TimeoutError:
        log.warning("%s: a client reads more than %g s behind; left", cursor.stream.id.text, lag_limit_s)
        return
    except (LogError, StreamLostError) as error:
        log.error("%s: the stream breaks off: %s", cursor.stream.id.text, error)
        return
    finally:
        patience.close()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _reply(response: Response, request: Request, send: Send) -> None:
    await response(request.scope, request.receive, send)


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise bad_request(f"'{name}' must be true or false.", param=name)
    return value in ("true", "1")


def _decoded(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
