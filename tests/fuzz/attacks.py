"""One hostile input each: how it is sent, and what must come of it. Its `repr` is all it takes to send it again."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.fuzz.target import ENDS, Target, check_error, check_events, within
from tests.fuzz.wire import CLOSE, PING, PONG, TEXT, Frame, Line, ProtocolViolation, frame, handshake, line, request

_QUIET_S = 0.25
"""A server that waits for the rest of a broken request has nothing to say; then we hang up, and it must, too."""
_SENTINEL = "fuzz.sentinel"
_SHOWN = 2000


@dataclass(frozen=True)
class Call:
    """Well-formed HTTP around anything at all."""

    method: str
    target: str
    key: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)

    async def play(self, target: Target) -> None:
        """There is an answer, and it is a proper one."""
        raw = self._raw()
        async with line(target.port) as connection, within(f"the reply to {raw[:_SHOWN]!r}"):
            await connection.send([raw])
            reply = await connection.reply(head_only=self.method == "HEAD")
        assert reply is not None, f"closed without a reply to {raw[:_SHOWN]!r}"
        target.judge(reply, raw, self.key, head=self.method == "HEAD")
        if (
            reply.headers.get("content-type", "").startswith("text/event-stream")
            and "starting_after" not in self.target
        ):
            _check_stream(reply.body, f"{reply.body[:_SHOWN]!r}\nto {raw[:_SHOWN]!r}")

    def _raw(self) -> bytes:
        known = (("authorization", f"Bearer {self.key}"),) if self.key else ()
        return request(self.method, self.target, [*known, *self.headers], self.body)


@dataclass(frozen=True)
class Raw:
    """Bytes on a connection. `answered`: they hold a whole request, so that silence is a hang."""

    pieces: tuple[bytes, ...]
    key: str = ""
    pause_s: float = 0.0
    answered: bool = False

    async def play(self, target: Target) -> None:
        """Each reply is a proper one, and the connection ends when we end it."""
        raw = b"".join(self.pieces)
        async with line(target.port) as connection, within(f"an end after {raw[:_SHOWN]!r}"):
            await connection.send(self.pieces, self.pause_s)
            replies = await self._replies(connection, target, raw)
        assert replies or not self.answered, f"closed without a reply to {raw[:_SHOWN]!r}"

    async def _replies(self, connection: Line, target: Target, raw: bytes) -> int:
        """How many came until the connection was closed."""
        count, hung_up, head = 0, False, raw.startswith(b"HEAD ")
        while True:
            if not hung_up and (count or not self.answered) and await _quiet(connection):
                connection.end()
                hung_up = True
            reply = await connection.reply(head_only=head)
            if reply is None:
                return count
            count += 1
            target.judge(reply, raw, self.key, head=head)
            if reply.closes:
                connection.end()
                hung_up = True


@dataclass(frozen=True)
class Socket:
    """A WebSocket connection and what is written after the handshake. `alive`: these frames do not end it."""

    pieces: tuple[bytes, ...]
    key: str
    target: str = "/v1/responses"
    headers: tuple[tuple[str, str], ...] = ()
    alive: bool = False
    abrupt: bool = False

    async def play(self, target: Target) -> None:
        """Every frame is answered or closes the connection; what was accepted ends."""
        raw = handshake(self.target, self._headers())
        told = f"{self.pieces!r}"[:_SHOWN]
        async with line(target.port) as connection, within(f"an end of the WebSocket {self.target} after {told}"):
            await connection.send([raw])
            reply = await connection.reply()
            assert reply is not None, f"closed without a reply to {raw[:_SHOWN]!r}"
            target.judge(reply, raw, self.key)
            if reply.status != 101:
                return
            await connection.send(self.pieces)
            if not self.abrupt:
                await self._listen(connection, target, raw, told)

    def _headers(self) -> list[tuple[str, str]]:
        known = [("authorization", f"Bearer {self.key}")] if self.key else []
        return [*known, *self.headers]

    async def _listen(self, connection: Line, target: Target, asked: bytes, told: str) -> None:
        sentinel = json.dumps({"type": _SENTINEL}).encode()
        await connection.send([frame(TEXT, sentinel), frame(PING, b"there?")])
        due = len(self.pieces) + 1 if self.alive else 0
        watch = _Watch(target, asked + b"".join(self.pieces), self.key, told, due)
        while True:
            if not self.alive and await _quiet(connection):
                connection.end()
            received = await connection.frame()
            if received is None or watch.take(received):
                break
        if self.alive:
            assert not watch.closed, f"closed with {watch.closed} after {told}"
            assert watch.over, f"the connection broke off after {told}"


class _Watch:
    """What a WebSocket has said so far; `due`: how many answers it owes at least."""

    def __init__(self, target: Target, asked: bytes, key: str, told: str, due: int) -> None:
        self._target, self._asked, self._key, self._told, self._due = target, asked, key, told, due
        self._open: set[str] = set()
        self._pong = self._sentinel = False
        self.closed = 0

    @property
    def over(self) -> bool:
        """Whether everything was answered, and all that was accepted has ended."""
        return self._sentinel and self._pong and self._due <= 0 and not self._open

    def take(self, received: Frame) -> bool:
        """Whether nothing more is to come."""
        self._target.judge_privacy(received.payload, self._asked, self._key)
        if received.opcode == TEXT:
            self._event(json.loads(received.payload))
        elif received.opcode == PONG:
            self._pong |= received.payload == b"there?"
        elif received.opcode == CLOSE:
            self.closed = int.from_bytes(received.payload[:2]) or 1005
            # 1011 is a server's own failure: the 500 of WebSockets.
            assert self.closed != 1011, f"closed with 1011 after {self._told}"
            return True
        else:
            raise ProtocolViolation(f"opcode {received.opcode:#x} after {self._told}")
        return self.over

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        self._due -= kind in ("error", "response.created", "response.steer.failed")
        if kind == "error":
            self._target.statuses[f"error {event['status']}"] += 1
            assert event["status"] < 500, f"{event} after {self._told}"
            check_error(event["error"], f"{event} after {self._told}")
            self._sentinel |= _SENTINEL in event["error"]["message"]
        elif kind == "response.created":
            self._open.add(event["response"]["id"])
        elif kind in ENDS:
            self._target.statuses[f"ws {event['response']['status']}"] += 1
            self._open.discard(event["response"]["id"])


async def _quiet(connection: Line) -> bool:
    """Whether the server says nothing for a while."""
    try:
        async with asyncio.timeout(_QUIET_S):
            await connection.readable()
    except TimeoutError:
        return True
    return False


def _check_stream(body: bytes, told: str) -> None:
    """An event stream of either dialect, whole to its end."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == "", f"the stream breaks off: {told}"
    if blocks[0].startswith("data: "):
        assert blocks[-1] == "data: [DONE]", f"the stream has no end: {told}"
        chunks = [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}, told
    else:
        check_events([_event(block) for block in blocks], told)


def _event(block: str) -> dict[str, Any]:
    name, _, data = block.partition("\ndata: ")
    event: dict[str, Any] = json.loads(data)
    assert name == f"event: {event['type']}", block
    return event


Attack = Call | Raw | Socket
