"""uvicorn's two protocols, with our own words where bytes are no HTTP or no WebSocket: even then a client gets an error
with all four keys and a request id, at once, and the log holds no error of ours."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.server import ServerProtocol

from services.gateway.api.envelope import error_response
from services.gateway.errors import ApiError
from shared.ids import new_id

_NO_HTTP = "This is no valid HTTP/1.1 request, or its headers are longer than 64 KiB."
_NO_HANDSHAKE = "This is no valid WebSocket handshake: it is a GET without a body, with at most 128 headers of 8 KiB."
_MAY_REPLY = frozenset({h11.IDLE, h11.SEND_RESPONSE})


class HttpProtocol(H11Protocol):
    """HTTP/1.1."""

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, if no reply has begun; the connection ends."""
        if self.cycle is not None and not self.cycle.response_complete:
            # The request's own reply must not follow; h11 would call that an error of ours.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in _MAY_REPLY:
            refusal = _refusal(400, _NO_HTTP, {"connection": "close"})
            headers = [(name, value) for name, value in refusal.raw_headers]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(refusal.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """RFC 6455."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

    def data_received(self, data: bytes) -> None:
        """As uvicorn, which leaves those without an answer whose handshake cannot even be parsed."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.handshake_complete = self.close_sent = True
            refusal = b"".join(self.conn.data_to_send())  # 414 and 431 wait to be sent, 400 has to be made
            self.transport.write(refusal or self.conn.reject(HTTPStatus.BAD_REQUEST, _NO_HANDSHAKE).serialize())
            self.transport.close()

    async def send(self, message: Any) -> None:
        """As uvicorn, which takes a handshake that was refused (401, 404) for one that was forgotten."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def handle_parser_exception(self) -> None:
        """As uvicorn, also for frames that came before the handshake was answered: no close frame answers those."""
        if self.conn.close_sent is None:
            self.close_sent = True
            self.transport.close()
        else:
            super().handle_parser_exception()


class _Handshake(ServerProtocol):
    """Refuses in our words."""

    def reject(self, status: HTTPStatus | int, text: str) -> http11.Response:
        """The refusal as websockets makes it, with our body."""
        refused: http11.Response = super().reject(status, text)
        refusal = _refusal(int(status), text.strip() or HTTPStatus(status).phrase, {})
        for name in ("Content-Length", "Content-Type"):
            del refused.headers[name]
        for name, value in refusal.headers.items():
            refused.headers[name] = value
        refused.body = bytes(refusal.body)
        return refused


def _refusal(status: int, message: str, headers: Mapping[str, str]) -> Response:
    """The envelope; the middleware that gives replies their ids never sees these."""
    given = {**headers, "x-request-id": new_id("req"), "openai-processing-ms": "0"}
    return error_response(ApiError(status, message, code="invalid_request", headers=given))
