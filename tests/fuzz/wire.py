"""Sockets by hand: bytes out, as broken as one likes; HTTP replies and WebSocket frames in."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
_LIMIT = 8 * 1024 * 1024
"""The longest line that is read."""


class ProtocolViolation(AssertionError):
    """The server sent what is no HTTP and no WebSocket."""


@dataclass(frozen=True)
class Reply:
    """One HTTP reply; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether no other reply follows."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(frozen=True)
class Frame:
    """One WebSocket frame from the server."""

    opcode: int
    payload: bytes


TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Reader(asyncio.StreamReader):
    """A reader that can also be asked whether there is something."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self._something = asyncio.Event()

    def feed_data(self, data: Any) -> None:
        super().feed_data(data)
        self._something.set()

    def feed_eof(self) -> None:
        super().feed_eof()
        self._something.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._something.set()

    async def readable(self) -> None:
        """Return once there is something that was not read, or nothing more will come."""
        if not self._buffer and not self.at_eof():  # type: ignore[attr-defined]  # CPython's has no public name for it
            self._something.clear()
            await self._something.wait()


@dataclass
class Line:
    """One TCP connection."""

    reader: "Reader"
    writer: asyncio.StreamWriter

    async def readable(self) -> None:
        """Return once there is something to read, or the connection's end."""
        await self.reader.readable()

    async def send(self, pieces: Sequence[bytes], pause_s: float = 0.0) -> None:
        """Write the pieces one by one. A server may answer early and close: that is no error of ours."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
        except ConnectionError:
            return

    def end(self) -> None:
        """Say that nothing more comes."""
        if not self.writer.is_closing() and self.writer.can_write_eof():
            try:
                self.writer.write_eof()
            except OSError:  # the server closed first
                return

    async def reply(self, *, head_only: bool = False) -> Reply | None:
        """The next final reply; None where the connection ended instead. Raises ProtocolViolation."""
        while (found := await self._next_reply(head_only)) is not None and found.status == 100:
            continue
        return found

    async def _next_reply(self, head_only: bool) -> Reply | None:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            left = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            if left:
                raise ProtocolViolation(f"a reply broke off: {left[:200]!r}") from error
            return None
        status, headers = _head(head)
        bodiless = head_only or status < 200 or status in (204, 304)
        return Reply(status, headers, b"" if bodiless else await self._body(headers))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join([chunk async for chunk in self._chunks()])
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    async def frame(self) -> Frame | None:
        """The next frame; None where the connection ended. Raises ProtocolViolation for one that no server may send."""
        try:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            payload = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if second & 0x80 or not first & 0x80 or first & 0x70:
            raise ProtocolViolation(f"a masked, partial or extended frame from the server: {first:#x} {second:#x}")
        return Frame(first & 0x0F, payload)


@asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    """A connection; dropped at the end, without a farewell."""
    loop = asyncio.get_running_loop()
    reader = Reader(limit=_LIMIT, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, HOST, port)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


def request(method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None = None) -> bytes:
    """A well-formed request. A body brings its content-length."""
    lines = [f"{method} {target} HTTP/1.1", "host: fuzz", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def handshake(target: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """A WebSocket handshake."""
    upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    return request("GET", target, [*upgrade, *headers])


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, mask: bool = True, length: int | None = None
) -> bytes:
    """A client's frame (RFC 6455, 5.2); `length` lies about the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    flag = 0x80 if mask else 0
    if size < 126:
        head += bytes([flag | size])
    elif size < 1 << 16:
        head += bytes([flag | 126]) + size.to_bytes(2)
    else:
        head += bytes([flag | 127]) + size.to_bytes(8)
    if not mask:
        return head + payload
    # A mask of zeros is a mask, and leaves the payload readable in what a failure shows.
    return head + bytes(4) + payload


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    if version != "HTTP/1.1" or not rest[:3].isdigit():
        raise ProtocolViolation(f"no status line: {first[:200]!r}")
    headers: dict[str, str] = {}
    for text in lines:
        name, colon, value = text.partition(":")
        if not colon or not name or name.strip() != name:
            raise ProtocolViolation(f"no header: {text[:200]!r}")
        headers[name.lower()] = value.strip()
    return int(rest[:3]), headers
