"""`/v1/responses` over WebSocket: `response.create` on lanes, resumption by query, one writer per connection."""

import asyncio
import contextlib
import logging
import re
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from services.gateway.api.body import parse_object
from services.gateway.api.errors import ApiError, bad_request, error_event, error_response, server_error
from services.gateway.api.lanes import Lanes
from services.gateway.api.parts import Parts
from services.gateway.api.responses import starting_after_of
from services.gateway.api.schema import CreateResponse, parse_create
from services.gateway.api.tracing import describe_outcome, describe_request, server_span
from services.gateway.auth import Caller
from services.gateway.fanout import Cursor, Lease, StreamLostError
from services.gateway.projections import ClientEvent, stored_events
from shared.errors import LogError

log = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
# Codes after which a reconnecting SDK tries again (1001, 1011, 1012, 1013), and those after which it does not.
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
_CLOSE_S = 10.0


class _Close(Exception):
    """Close the connection with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def connect(websocket: WebSocket) -> None:
    """The endpoint: authenticate in the handshake, then serve until one side closes."""
    parts: Parts = websocket.app.state.parts
    try:
        caller = parts.authenticator.caller(websocket)
        resume = _resume_query(websocket)
    except ApiError as error:
        await websocket.send_denial_response(error_response(error))
        return
    await websocket.accept()
    session = Session(websocket, parts, caller)
    try:
        await session.run(resume)
    except _Close as close:
        await _close(websocket, close)
    except WebSocketDisconnect:
        pass  # the usual end: what the connection held is released by now


async def _close(websocket: WebSocket, close: _Close) -> None:
    """Say why, if the peer reads it within `_CLOSE_S`: uvicorn holds a close back behind what a peer has not read."""
    with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):  # the peer may have closed meanwhile
        async with asyncio.timeout(_CLOSE_S):
            await websocket.close(close.code, close.reason)


class Session:
    """One connection: a reader, the lanes' tasks, and a lock that makes them one writer."""

    def __init__(self, websocket: WebSocket, parts: Parts, caller: Caller) -> None:
        self._websocket = websocket
        self._parts = parts
        self._caller = caller
        self._writing = asyncio.Lock()
        self._lanes = Lanes()

    async def run(self, resume: tuple[str, int] | None) -> None:
        """Serve until the client leaves (WebSocketDisconnect) or the connection must close (_Close)."""
        if resume is not None:
            self._lanes.submit(None, lambda: self._resume(*resume))
        reading = asyncio.ensure_future(self._read())
        failing = asyncio.ensure_future(self._lanes.failed())
        begun = self._parts.drain.begun
        limit_s = self._parts.settings.connection_limit_s
        try:
            await _first_of(reading, failing, begun, timeout_s=limit_s)
            if begun.done():
                await self._drain(reading, failing)
            await self._expire()
        finally:
            for task in (reading, failing):
                task.cancel()
            await asyncio.gather(reading, failing, return_exceptions=True)
            await self._lanes.stop()

    async def _expire(self) -> None:
        limit_s = self._parts.settings.connection_limit_s
        error = bad_request(
            f"This connection has lived for {limit_s:g} s, its limit. Connect again; a response in progress can be "
            "resumed with ?response_id=…&starting_after=….",
            code="websocket_connection_limit_reached",
        )
        await self._send(error_event(error))
        raise _Close(GOING_AWAY, "connection limit reached")

    async def _drain(self, *tasks: "asyncio.Future[None]") -> None:
        """The gateway leaves: close as soon as nothing runs here, at the latest when its drain is over."""
        idle = asyncio.ensure_future(self._lanes.idle())
        try:
            await _first_of(*tasks, idle, self._parts.drain.over)
        finally:
            idle.cancel()
        raise _Close(SERVICE_RESTART, "this gateway is shutting down; resume with ?response_id=&starting_after=")

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text")
            if text is None:
                error = bad_request("Binary frames are not supported: send JSON as text.", code="unsupported_frame")
                await self._send(error_event(error))
                raise _Close(UNSUPPORTED_DATA, "binary frames are not supported")
            await self._take(text)

    async def _take(self, text: str) -> None:
        """One client event; what is wrong with it is answered, and the connection stays."""
        lane: str | None = None
        try:
            event = parse_object(text)
            lane = _stream_id(event)
            await self._handle(event, lane)
        except ApiError as error:
            await self._send(error_event(error, lane))

    async def _handle(self, event: dict[str, Any], lane: str | None) -> None:
        match event.get("type"):
            case "response.create":
                command = _parse_command(event)
                self._lanes.submit(lane, lambda: self._create(command, lane))
            case "response.steer":
                await self._send(_steer_failed(event))
            case None:
                raise bad_request(
                    "Missing required parameter: 'type'.", code="missing_required_parameter", param="type"
                )
            case other:
                raise bad_request(
                    f"Invalid value for 'type': {str(other)[:80]!r}. Supported values are: 'response.create'.",
                    param="type",
                )

    async def _create(self, command: CreateResponse, lane: str | None) -> None:
        try:
            with server_span(self._websocket, "WS", "/v1/responses") as span:
                if self._parts.drain.begun.done():
                    raise self._parts.drain.refusal()
                spec = command.spec()
                describe_request(span, self._caller, spec)
                with self._parts.admission.slot(), await self._parts.ingress.submit(self._caller, spec) as lease:
                    try:
                        await self._copy(lease.cursor(), lane)
                    finally:
                        describe_outcome(span, lease.stream.id.text, lease.stream.fold.terminal)
        except ApiError as error:
            await self._send(error_event(error, lane))

    async def _resume(self, response_id: str, starting_after: int) -> None:
        """The rest of a response that another connection, perhaps to another gateway, began."""
        try:
            followed = await self._parts.lookup.follow(self._caller, response_id)
            if isinstance(followed, Lease):
                with self._parts.admission.slot(), followed as lease:
                    await self._copy(lease.cursor(starting_after), None)
            else:
                for event in stored_events(followed.accepted, followed.terminal, starting_after):
                    await self._send(event.text())
        except ApiError as error:
            await self._send(error_event(error))

    async def _copy(self, cursor: Cursor[ClientEvent], lane: str | None) -> None:
        """Write events until the response ends."""
        limit_s, sent = self._parts.settings.lag_limit_s, "-1"
        try:
            while events := await cursor.batch():
                for event in events:
                    await self._write(event.text(lane))
                    sent = str(event.sequence_number)
                if cursor.lag_s() > limit_s:
                    raise TimeoutError
        except TimeoutError as error:
            raise self._too_slow(f"{cursor.stream.id.text}&starting_after={sent}") from error
        except (LogError, StreamLostError) as error:
            log.error("%s: the stream breaks off: %s", cursor.stream.id.text, error)
            raise server_error("The stream cannot be continued here: resume it by its id.") from error

    async def _send(self, text: str) -> None:
        """Write one message; a peer that takes none for `lag_limit_s` is given up."""
        try:
            await self._write(text)
        except TimeoutError as error:
            raise self._too_slow("&starting_after=") from error

    async def _write(self, text: str) -> None:
        async with asyncio.timeout(self._parts.settings.lag_limit_s), self._writing:
            if self._websocket.client_state is WebSocketState.CONNECTED:
                await self._websocket.send_text(text)

    def _too_slow(self, where: str) -> _Close:
        """The reason of a close holds 123 bytes; with an id and any number it stays below."""
        limit_s = self._parts.settings.lag_limit_s
        return _Close(TRY_AGAIN_LATER, f"more than {limit_s:g} s behind; resume with ?response_id={where}")


async def _first_of(*futures: "asyncio.Future[None]", timeout_s: float | None = None) -> None:
    """Return once one of them is done, or after the timeout. Raises what it raised."""
    done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _parse_command(event: dict[str, Any]) -> CreateResponse:
    """The request inside `response.create`. `stream` says nothing here; some clients always send it."""
    if event.get("background"):
        raise bad_request(
            "'background' is not supported over WebSocket.", code="unsupported_parameter", param="background"
        )
    envelope = {"type", "stream_id", "stream", "background"}
    return parse_create({name: value for name, value in event.items() if name not in envelope})


def _stream_id(event: dict[str, Any]) -> str | None:
    value = event.get("stream_id")
    if value is None:
        return None
    if not isinstance(value, str) or _STREAM_ID.fullmatch(value) is None:
        raise bad_request(
            "Invalid 'stream_id': 1 to 256 of the characters A-Z a-z 0-9 _ . - are allowed.",
            code="invalid_stream_id",
            param="stream_id",
        )
    return value


def _steer_failed(event: dict[str, Any]) -> str:
    error = {
        "type": "invalid_request_error",
        "code": "steering_not_supported",
        "message": "This server does not support steering.",
    }
    steer = {"previous_response_id": event.get("previous_response_id") or "", "input": event.get("input") or ""}
    failed = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
    return msgspec.json.encode(failed).decode()


def _resume_query(websocket: WebSocket) -> tuple[str, int] | None:
    response_id = websocket.query_params.get("response_id")
    if response_id is None:
        return None
    return response_id, starting_after_of(websocket.query_params.get("starting_after"))
