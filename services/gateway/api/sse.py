"""Server-sent events: one writer for every dialect, and the endpoint around what writes its reply itself."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.api.patience import Patience
from services.gateway.api.tracing import note_eviction
from services.gateway.errors import UNREADABLE, ApiError
from services.gateway.fanout import Cursor, StreamLostError
from services.gateway.meter import Telling

log = logging.getLogger(__name__)

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    # Reverse proxies such as nginx would collect the events otherwise.
    "x-accel-buffering": "no",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


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


async def reply(response: Response, request: Request, send: Send) -> None:
    """Send a whole reply."""
    await response(request.scope, request.receive, send)


async def send_events(
    batches: AsyncGenerator[Iterable[bytes], None],
    cursors: Sequence[Cursor[Any]],
    lag_limit_s: float,
    send: Send,
    telling: Telling,
) -> None:
    """Write events, each whole as it goes to the client, until `batches`, which reads the `cursors`, is over.

    A reader that lags past the limit, or a log that gives no more, breaks the connection off: the last chunk is
    never sent, so that no client takes a part for the whole.
    """
    await send({"type": "http.response.start", "status": 200, "headers": _RAW_HEADERS})
    patience, name = Patience(lag_limit_s), cursors[0].stream.id.text
    try:
        async with aclosing(batches):
            async for batch in batches:
                telling.took()
                for event in batch:
                    with patience:
                        await send({"type": "http.response.body", "body": event, "more_body": True})
                telling.handed()
                for cursor in cursors:
                    if cursor.lag_s() > lag_limit_s:
                        raise TimeoutError
    except TimeoutError:
        telling.evicted()
        note_eviction(lag_limit_s)
        log.warning("%s: a client reads more than %g s behind; left", name, lag_limit_s)
        return
    except (*UNREADABLE, StreamLostError) as error:
        log.error("%s: the stream breaks off: %s", name, error)
        return
    finally:
        patience.close()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
