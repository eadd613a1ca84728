"""Many clients that only read, in one process: raw sockets, no parsing, so that they cost the machine little.

`python -m tests.bench.tokens.readers` reads one line of JSON (`Readers`), prints `open` once every connection has
its first bytes, and reads until it is killed. A stream that the server closes ends it with an error.
"""

import asyncio
import json
import resource
import sys
from dataclasses import asdict, dataclass
from typing import Literal, cast

import uvloop

OPENING_AT_ONCE = 64
_PING, _PONG = 0x89, 0x8A


@dataclass(frozen=True, slots=True)
class Readers:
    """`count` streams from 127.0.0.1:`port`: `body` is what each one requests."""

    port: int
    count: int
    body: str = "{}"
    protocol: Literal["sse", "websocket"] = "sse"

    def line(self) -> bytes:
        """For the process's stdin."""
        return json.dumps(asdict(self)).encode() + b"\n"


class _Reader(asyncio.Protocol):
    """Sends its request, then drops what comes; `first` is done with the first byte of the stream itself."""

    def __init__(self, readers: Readers, lost: "asyncio.Future[None]") -> None:
        self._readers = readers
        self._lost = lost
        self._upgraded = readers.protocol == "sse"
        self._transport: asyncio.Transport | None = None
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        self._transport.write(_request(self._readers))

    def data_received(self, data: bytes) -> None:
        if self.first.done():
            if self._readers.protocol == "websocket" and data[0] == _PING:
                assert self._transport is not None
                self._transport.write(pong(data))
            return
        if not data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")) and not self._begun(data):
            self.first.set_exception(ConnectionError(data[:300].decode("latin-1")))
        elif not self._upgraded:
            self._upgraded = True
            assert self._transport is not None
            self._transport.write(text_frame(self._readers.body.encode()))
        else:
            self.first.set_result(None)

    def _begun(self, data: bytes) -> bool:
        return self._readers.protocol == "websocket" and self._upgraded and b"response.created" in data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.first.done():
            self.first.set_exception(exc or ConnectionError("closed before the stream began"))
        elif not self._lost.done():
            self._lost.set_exception(exc or ConnectionError("the server closed a stream"))


def _request(readers: Readers) -> bytes:
    host = f"Host: 127.0.0.1:{readers.port}\r\n"
    if readers.protocol == "websocket":
        return (
            f"GET /v1/responses HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
    head = f"POST /v1/responses HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(readers.body)}\r\n\r\n{readers.body}".encode()


def pong(ping: bytes) -> bytes:
    """The answer to the first frame of `ping` (RFC 6455, 5.5.3), masked by the key 0: silence would end the stream."""
    size = ping[1]
    return bytes([_PONG, 0x80 | size]) + bytes(4) + ping[2 : 2 + size]


def text_frame(payload: bytes) -> bytes:
    """A client's text message: masked, as RFC 6455 (5.3) demands, by the key 0. Up to 65,535 bytes."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


async def _open_all(readers: Readers, lost: "asyncio.Future[None]") -> list[_Reader]:
    """Raises ConnectionError with what a refused one was told."""
    turn = asyncio.Semaphore(OPENING_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def one() -> _Reader:
        async with turn:
            _, reader = await loop.create_connection(lambda: _Reader(readers, lost), "127.0.0.1", readers.port)
            await reader.first
            return reader

    async with asyncio.TaskGroup() as group:
        opening = [group.create_task(one()) for _ in range(readers.count)]
    return [task.result() for task in opening]


async def _main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    held = await _open_all(Readers(**json.loads(sys.stdin.readline())), lost)
    print("open", len(held), flush=True)
    await lost


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
