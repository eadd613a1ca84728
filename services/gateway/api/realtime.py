"""`/v1/responses` over WebSocket: requests on lanes, each remembered by its lane, and resumption by query.

A connection lives for `connection_limit_s`. What runs then goes on for `connection_grace_s` at most and nothing new
begins; after that the client is told to connect again, and resumes what still runs by its id. The same happens when
the gateway leaves, within its drain.
"""

import asyncio
import time
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from services.gateway.api.body import parse_object
from services.gateway.api.client_events import STEER, parse_request, steer_failed, stream_id_of, type_of
from services.gateway.api.envelope import error_event, error_response
from services.gateway.api.handshake import Resume, shake_hands
from services.gateway.api.item_references import resolve
from services.gateway.api.lane_memory import LaneMemory
from services.gateway.api.lanes import Lanes
from services.gateway.api.parts import Parts
from services.gateway.api.socket_writer import (
    GOING_AWAY,
    MESSAGE_TOO_BIG,
    SERVICE_RESTART,
    Close,
    SocketWriter,
)
from services.gateway.api.tracing import describe_outcome, describe_request, resuming, server_span
from services.gateway.auth import Caller
from services.gateway.errors import ApiError, bad_request
from services.gateway.fanout import Lease
from services.gateway.ingress import Past
from services.gateway.ledger import quota_headers
from services.gateway.projections import stored_events
from shared.folds import EventFold
from shared.ids import response_id_text
from shared.records import ResponseSpec


async def connect(websocket: WebSocket) -> None:
    """The endpoint: authenticate in the handshake, then serve until one side closes."""
    parts: Parts = websocket.app.state.parts
    try:
        handshake = shake_hands(websocket, parts.authenticator, parts.lookup)
    except ApiError as error:
        parts.meter.refused(error)
        await websocket.send_denial_response(error_response(error))
        return
    await websocket.accept(handshake.subprotocol)
    session = Session(websocket, parts, handshake.caller)
    try:
        await session.run(handshake.resume)
    except Close as close:
        await session.writer.close(close)
    except WebSocketDisconnect:
        pass  # the usual end: what the connection held is released by now


class Session:
    """One connection: a reader, the lanes' tasks and their memory, and one writer."""

    def __init__(self, websocket: WebSocket, parts: Parts, caller: Caller) -> None:
        self.writer = SocketWriter(websocket, parts.settings.lag_limit_s, parts.meter)
        self._websocket = websocket
        self._parts = parts
        self._caller = caller
        self._lanes = Lanes()
        self._memory = LaneMemory(parts.settings.lane_memory_bytes)
        self._running: dict[str, str | None] = {}
        """Responses that are being written, and their lanes."""
        self._expired = False

    async def run(self, resume: Resume | None) -> None:
        """Serve until the client leaves (WebSocketDisconnect) or the connection must close (Close)."""
        if resume is not None:
            self._lanes.submit(None, partial(self._resume, resume))
        reading = asyncio.ensure_future(self._read())
        try:
            await self._live(reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._lanes.stop()

    async def _live(self, reading: "asyncio.Future[None]") -> None:
        settings, drain = self._parts.settings, self._parts.drain
        await _first_of(reading, self._lanes.failure, drain.begun, timeout_s=settings.connection_limit_s)
        if not drain.begun.done():
            self._expired = True
            await self._until_idle(reading, drain.begun, timeout_s=settings.connection_grace_s)
        if not drain.begun.done():
            await self._refuse(self._limit_reached())
            raise Close(GOING_AWAY, "connection limit reached")
        await self._until_idle(reading, drain.over)
        raise Close(SERVICE_RESTART, "this gateway is shutting down; resume with ?response_id=&starting_after=")

    async def _until_idle(self, *others: "asyncio.Future[None]", timeout_s: float | None = None) -> None:
        """Return as soon as nothing runs on any lane, or one of the others is done, or after the timeout."""
        idle = asyncio.ensure_future(self._lanes.idle())
        try:
            await _first_of(*others, self._lanes.failure, idle, timeout_s=timeout_s)
        finally:
            idle.cancel()

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            await self._take(message.get("text"))

    async def _take(self, text: str | None) -> None:
        """One message; what is wrong with it is answered, and the connection stays."""
        lane: str | None = None
        try:
            if text is None:
                raise bad_request("Binary messages are not supported: send JSON as text.", code="unsupported_frame")
            size_bytes = await self._bounded(text)
            event = parse_object(text)
            lane = stream_id_of(event)
            if type_of(event) == STEER:
                target = event.get("previous_response_id")
                await self.writer.send(steer_failed(event, self._running.get(str(target))))
            else:
                self._lanes.submit(lane, partial(self._create, event, lane), size_bytes)
        except ApiError as error:
            await self._refuse(error, lane)

    async def _bounded(self, text: str) -> int:
        """The message's bytes. Raises Close for too many; a message that is larger still never comes so far."""
        limit_bytes = self._parts.settings.body_limit_bytes
        size_bytes = len(text) if text.isascii() else len(text.encode())
        if size_bytes > limit_bytes:
            message = f"The message of {size_bytes:,} bytes is larger than {limit_bytes:,} bytes."
            await self._refuse(ApiError(413, message, code="request_too_large"))
            raise Close(MESSAGE_TOO_BIG, f"more than {limit_bytes} bytes")
        return size_bytes

    async def _create(self, event: dict[str, Any], lane: str | None) -> None:
        """One request, in its lane's turn: so its errors are told in order too."""
        try:
            await self._serve(event, lane)
        except ApiError as error:
            self._memory.evict(lane, response_id_text(str(event.get("previous_response_id"))))
            await self._refuse(error, lane)

    async def _serve(self, event: dict[str, Any], lane: str | None) -> None:
        parts = self._parts
        asked_s = time.perf_counter()
        with server_span(self._websocket, "WS", "/v1/responses") as span:
            self._refuse_late()
            spec = await self._spec(event)
            describe_request(span, self._caller, spec)
            past = self._past(spec)
            with (
                parts.admission.slot(),
                await parts.ingress.submit(self._caller, spec, past) as lease,
                parts.meter.telling("websocket", lease.stream, asked_s) as telling,
            ):
                self._running[lease.stream.id.text] = lane
                try:
                    await self.writer.copy(lease.cursor(), lane, telling)
                finally:
                    del self._running[lease.stream.id.text]
                    describe_outcome(span, lease.stream)
                self._remember(lane, past, lease.stream.fold)

    async def _spec(self, event: dict[str, Any]) -> ResponseSpec:
        """The request in the event, with the items that it refers to. Raises ApiError."""
        command = parse_request(event)
        given = await resolve(self._parts, self._caller, command.input, command.named_conversation())
        return command.model_copy(update={"input": given}).spec()

    def _refuse_late(self) -> None:
        if self._parts.drain.begun.done():
            raise self._parts.drain.refusal()
        if self._expired:
            raise self._limit_reached()

    def _past(self, spec: ResponseSpec) -> Past:
        parent = spec.previous_response_id
        return (self._memory.recall(parent) if parent is not None else None) or Past(parent)

    def _remember(self, lane: str | None, past: Past, fold: EventFold) -> None:
        """The response has ended; what its lane remembers now."""
        if fold.accepted is None or fold.terminal is None or fold.deleted:
            return
        self._memory.advance(lane, fold.accepted.response_id, past.then(fold.accepted, fold.terminal))

    async def _resume(self, resume: Resume) -> None:
        """The rest of a response that another connection, perhaps to another gateway, began."""
        try:
            with server_span(self._websocket, "WS", "/v1/responses?response_id"):
                followed = await self._parts.lookup.follow(self._caller, resume.response_id.text)
                if isinstance(followed, Lease):
                    await self._follow(followed, resume)
                else:
                    for event in stored_events(followed.accepted, followed.terminal, resume.starting_after):
                        await self.writer.send(event.text())
        except ApiError as error:
            await self._refuse(error)

    async def _follow(self, followed: Lease, resume: Resume) -> None:
        meter, starting_after = self._parts.meter, resume.starting_after
        with (
            followed as lease,
            self._parts.admission.slot(),
            meter.telling("websocket", lease.stream) as telling,
            resuming(lease.stream, starting_after),
        ):
            if starting_after >= 0:
                meter.resumed("websocket")
            await self.writer.copy(lease.cursor(starting_after), None, telling)

    async def _refuse(self, error: ApiError, lane: str | None = None) -> None:
        """Tell what is wrong, and how the caller stands with its limits, as the headers of an HTTP reply would."""
        self._parts.meter.refused(error)
        error.headers |= quota_headers(self._parts.ledger.standing(self._caller))
        await self.writer.send(error_event(error, lane))

    def _limit_reached(self) -> ApiError:
        limit_s = self._parts.settings.connection_limit_s
        return bad_request(
            f"This WebSocket connection has lived for {limit_s:g} s, its limit. Create a new WebSocket connection to "
            "continue; a response in progress can be resumed with ?response_id=…&starting_after=….",
            code="websocket_connection_limit_reached",
        )


async def _first_of(*futures: "asyncio.Future[None]", timeout_s: float | None = None) -> None:
    """Return once one of them is done, or after the timeout. Raises what it raised."""
    done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()
