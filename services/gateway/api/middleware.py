"""What every reply carries, and who is still served. Pure ASGI: it neither buffers a stream nor hides a disconnect."""

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from services.gateway.api.errors import error_response
from services.gateway.drain import Drain
from shared.ids import new_id

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class ReplyHeaders:
    """`x-request-id` and, over HTTP, the milliseconds until the reply began."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        started_s = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started_s) * 1000))
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Gate:
    """Counts what runs for the drain; once that has begun, only health is still answered."""

    def __init__(self, app: ASGIApp, drain: Drain, *, health: frozenset[str]) -> None:
        self._app = app
        self._drain = drain
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._health:
            await self._app(scope, receive, send)
        elif not self._drain.begun.done():
            with self._drain.work():
                await self._app(scope, receive, send)
        else:
            refusal = error_response(self._drain.refusal())
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(refusal)
            else:
                await refusal(scope, receive, send)
