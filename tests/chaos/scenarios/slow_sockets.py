"""Connections whose client reads one byte a second, over both transports, byte by byte from bare sockets."""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from tests.chaos.clients import Gateway
from tests.chaos.wire import Answer, BrokenConnectionError, parse_head, request_bytes

RECEIVE_BUFFER_BYTES = 4096
TRY_AGAIN_LATER = 1013
CUT_OFF = "a body without an end"


class SlowSocket(ABC):
    """A connection of which one byte is read each second, until `drain` reads the rest. `end` says how it ended,
    `ends_with` how it must."""

    ends_with: ClassVar[object]

    def __init__(self, at: Gateway, wanted: dict[str, Any]) -> None:
        """`wanted`: the body of the request."""
        self._at = at
        self.wanted = wanted
        self.end: object = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setblocking(False)
        self.received = bytearray()

    async def open(self) -> None:
        """Connect and ask."""
        parts = urlsplit(self._at.url)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, (parts.hostname, parts.port))
        await loop.sock_sendall(self._socket, self._asking())

    async def crawl(self) -> None:
        """Read one byte a second, until cancelled."""
        while True:
            self.received += await asyncio.get_running_loop().sock_recv(self._socket, 1)
            await asyncio.sleep(1.0)

    async def drain(self) -> None:
        """Read what is left, as fast as it comes, and close."""
        try:
            while part := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16):
                self.received += part
        except ConnectionResetError:
            pass  # the gateway gave the connection up: what came before is all there is
        finally:
            self._socket.close()

    @property
    def prompt(self) -> str:
        """What is asked."""
        return str(self.wanted["input"])

    @abstractmethod
    def _asking(self) -> bytes: ...

    @abstractmethod
    async def events(self) -> list[bytes]:
        """The events that were received whole; sets `end`."""


class SlowEvents(SlowSocket):
    """Server-sent events."""

    ends_with = CUT_OFF

    def _asking(self) -> bytes:
        return request_bytes("POST", f"{self._at.url}/responses", json={**self.wanted, "stream": True})

    async def events(self) -> list[bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(self.received))
        reader.feed_eof()
        found: list[bytes] = []
        try:
            answer = Answer(*parse_head(await reader.readuntil(b"\r\n\r\n")), reader)
            async for event in answer.events():
                found.append(event)
            self.end = "a whole body"
        except BrokenConnectionError:
            self.end = CUT_OFF
        return found


class SlowFrames(SlowSocket):
    """A WebSocket."""

    ends_with = TRY_AGAIN_LATER

    def __init__(self, at: Gateway, wanted: dict[str, Any]) -> None:
        super().__init__(at, wanted)
        self._protocol = ClientProtocol(parse_uri(at.url.replace("http:", "ws:") + "/responses"), max_size=None)

    def _asking(self) -> bytes:
        self._protocol.send_request(self._protocol.connect())
        return b"".join(self._protocol.data_to_send())

    async def open(self) -> None:
        await super().open()
        loop = asyncio.get_running_loop()
        while not self.received.endswith(b"\r\n\r\n"):
            self.received += await loop.sock_recv(self._socket, 1)
        self._protocol.receive_data(bytes(self.received))
        self.received.clear()
        self._protocol.send_text(msgspec.json.encode({"type": "response.create", **self.wanted}))
        await loop.sock_sendall(self._socket, b"".join(self._protocol.data_to_send()))

    async def drain(self) -> None:
        """The server closes once its close frame was answered."""
        loop, rest = asyncio.get_running_loop(), bytes(self.received)
        while rest:
            self._protocol.receive_data(rest)
            if answer := b"".join(self._protocol.data_to_send()):
                await loop.sock_sendall(self._socket, answer)
            rest = await loop.sock_recv(self._socket, 1 << 16)
        self._protocol.receive_eof()
        self._socket.close()

    async def events(self) -> list[bytes]:
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self.end = self._protocol.close_code
        return [bytes(frame.data) for frame in frames if frame.opcode is Opcode.TEXT]
