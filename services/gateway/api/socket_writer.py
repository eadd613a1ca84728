"""The one writer of a WebSocket, and the codes with which the connection closes."""

import asyncio
import contextlib
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from services.gateway.api.patience import Patience
from services.gateway.api.tracing import note_eviction
from services.gateway.errors import UNREADABLE, server_error
from services.gateway.fanout import Cursor, StreamLostError
from services.gateway.meter import GatewayMeter, Telling
from services.gateway.projections import ClientEvent

log = logging.getLogger(__name__)

# Codes after which a reconnecting SDK tries again (1001, 1012, 1013), and one after which it does not (1009).
GOING_AWAY = 1001
MESSAGE_TOO_BIG = 1009
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
_CLOSE_S = 10.0


class Close(Exception):
    """Close the connection with this code and reason (of at most 123 bytes)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class SocketWriter:
    """Writes messages, one after the other; a peer that takes none for `lag_limit_s` is given up."""

    def __init__(self, websocket: WebSocket, lag_limit_s: float, meter: GatewayMeter) -> None:
        self._meter = meter
        self._websocket = websocket
        self._lag_limit_s = lag_limit_s
        self._writing = asyncio.Lock()

    async def send(self, text: str) -> None:
        """Write one message. Raises Close, WebSocketDisconnect."""
        try:
            async with asyncio.timeout(self._lag_limit_s):
                await self._write(text)
        except TimeoutError as error:
            raise self._too_slow("&starting_after=") from error

    async def copy(self, cursor: Cursor[ClientEvent], lane: str | None, telling: Telling) -> None:
        """Write events until the response ends. Raises Close, ApiError 500, WebSocketDisconnect."""
        sent = -1
        patience = Patience(self._lag_limit_s)
        try:
            while events := await cursor.batch():
                telling.took()
                for event in events:
                    with patience:
                        await self._write(event.text(lane))
                    sent = event.sequence_number
                telling.handed()
                if cursor.lag_s() > self._lag_limit_s:
                    raise TimeoutError
        except TimeoutError as error:
            raise self._too_slow(f"{cursor.stream.id.text}&starting_after={sent}") from error
        except (*UNREADABLE, StreamLostError) as error:
            log.error("%s: the stream breaks off: %s", cursor.stream.id.text, error)
            raise server_error("The stream cannot be continued here: resume it by its id.") from error
        finally:
            patience.close()

    async def close(self, close: Close) -> None:
        """Say why, if the peer reads it within `_CLOSE_S`: uvicorn holds a close back behind what was not read."""
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):  # the peer may have closed meanwhile
            async with asyncio.timeout(_CLOSE_S):
                await self._websocket.close(close.code, close.reason)

    async def _write(self, text: str) -> None:
        async with self._writing:
            if self._websocket.client_state is WebSocketState.CONNECTED:
                try:
                    await self._websocket.send_text(text)
                except RuntimeError as error:
                    # uvicorn has closed by itself (a frame too large, a ping unanswered) and is about to tell us.
                    raise WebSocketDisconnect(1006) from error

    def _too_slow(self, where: str) -> Close:
        """With an id and any number, the reason stays below the 123 bytes that a close holds."""
        self._meter.evicted("websocket")
        note_eviction(self._lag_limit_s)
        return Close(TRY_AGAIN_LATER, f"more than {self._lag_limit_s:g} s behind; resume with ?response_id={where}")
