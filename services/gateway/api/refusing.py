"""How a request is refused before any endpoint has seen it."""

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from services.gateway.api.envelope import error_response
from services.gateway.errors import ApiError


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or a WebSocket's handshake, with an error, and count it."""
    scope["app"].state.parts.meter.refused(error)
    reply = error_response(error)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(reply)
    else:
        await reply(scope, receive, send)
