"""What every reply carries: `x-request-id` and, over HTTP, the milliseconds until it began."""

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.ids import new_id

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class ReplyHeaders:
    """Pure ASGI, so that it neither buffers a stream nor hides a disconnect."""

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
