"""What every reply carries, and who is still served. Pure ASGI: it neither buffers a stream nor hides a disconnect."""

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.api.refusing import refuse
from services.gateway.drain import Drain
from services.gateway.errors import ApiError, bad_request
from services.gateway.ledger import Ledger, quota_headers
from shared.ids import new_id

log = logging.getLogger(__name__)

_API_VERSION = "2020-10-01"
"""What OpenAI's API has sent as `openai-version` ever since."""
_MAX_CLIENT_ID = 512
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class ReplyHeaders:
    """What every reply carries: an id, the milliseconds until it began, and how a limited caller stands.

    `X-Client-Request-Id`, a client's own name for its request, goes to the log only, beside ours; as with OpenAI it
    must be ASCII of at most 512 characters.
    """

    def __init__(self, app: ASGIApp, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started_s = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-version"] = _API_VERSION
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started_s) * 1000))
                if (caller := state.get("caller")) is not None:
                    headers.update(quota_headers(self._ledger.standing(caller)))
            await send(message)

        refusal = _ambiguous_length(scope) or _note_client_id(scope, request_id)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await refuse(refusal, scope, receive, send_with_headers)


def _ambiguous_length(scope: Scope) -> ApiError | None:
    """The refusal of a request that tells its length twice: a proxy could go by the one and we by the other, so that a
    part of its body would pass for a request of its own (RFC 9112, 6.1 and 11.2). The connection ends with it."""
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers or "content-length" not in headers:
        return None
    message = "A request has either 'Content-Length' or 'Transfer-Encoding', not both."
    return ApiError(400, message, code="invalid_request", headers={"connection": "close"})


def _note_client_id(scope: Scope, request_id: str) -> ApiError | None:
    """Log the client's own id of the request, if it gave one; the refusal of one that cannot be logged."""
    name = Headers(scope=scope).get("x-client-request-id")
    if name is None:
        return None
    if len(name) > _MAX_CLIENT_ID or not (name.isascii() and name.isprintable()):
        message = f"Invalid 'X-Client-Request-Id': at most {_MAX_CLIENT_ID} printable ASCII characters are allowed."
        return bad_request(message, param="X-Client-Request-Id")
    log.info("%s is the client's %r", request_id, name)
    return None


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
            await refuse(self._drain.refusal(), scope, receive, send)
