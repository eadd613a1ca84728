"""HTTP and server-sent events over bare sockets.

A client of hundreds of streams shares two cores with the mesh that it measures: an ordinary HTTP client costs
milliseconds per request and would measure itself.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 15.0
"""A gateway that is silent for so long is left: longer than any takeover."""
_LIMIT_BYTES = 1 << 22


class BrokenConnectionError(Exception):
    """The connection could not be made, fell silent, or ended inside an answer."""


class Answer:
    """One HTTP answer: its status, and its body as it comes."""

    def __init__(self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    async def body(self) -> bytes:
        """The whole body. Raises BrokenConnectionError."""
        return b"".join([part async for part in self._parts()])

    async def events(self) -> AsyncIterator[bytes]:
        """The data of each server-sent event, as it was sent. Raises BrokenConnectionError."""
        rest = b""
        async for part in self._parts():
            *events, rest = (rest + part).split(b"\n\n")
            for event in events:
                for line in event.split(b"\n"):
                    if line.startswith(b"data: "):
                        yield line.removeprefix(b"data: ")

    async def _parts(self) -> AsyncIterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield await _within(self._reader.readexactly(int(self.headers.get("content-length", "0"))))
            return
        while size := int(await _within(self._reader.readuntil(b"\r\n")), 16):
            yield (await _within(self._reader.readexactly(size + 2)))[:-2]


@asynccontextmanager
async def request(
    method: str, url: str, *, query: Mapping[str, str] | None = None, json: Any = None
) -> AsyncIterator[Answer]:
    """Send a request on a connection of its own, which ends with the block. Raises BrokenConnectionError."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_LIMIT_BYTES)
    except (OSError, TimeoutError) as error:
        raise BrokenConnectionError(f"connect: {type(error).__name__} {error}") from error
    try:
        writer.write(request_bytes(method, url, query=query, json=json))
        status, headers = parse_head(await _within(reader.readuntil(b"\r\n\r\n")))
        yield Answer(status, headers, reader)
    finally:
        writer.transport.abort()


def request_bytes(method: str, url: str, *, query: Mapping[str, str] | None = None, json: Any = None) -> bytes:
    """A whole HTTP/1.1 request that asks for the connection's end behind the answer."""
    parts = urlsplit(url)
    target = f"{parts.path}?{urlencode(query)}" if query else parts.path
    body = b"" if json is None else msgspec.json.encode(json)
    lines = [f"{method} {target} HTTP/1.1", f"host: {parts.netloc}", "connection: close"]
    if json is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers (names in lower case) of an HTTP answer."""
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _within(reading: Any) -> bytes:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            found: bytes = await reading
            return found
    except TimeoutError as error:
        raise BrokenConnectionError(f"nothing came for {READ_TIMEOUT_S:g} s") from error
    except (OSError, asyncio.IncompleteReadError) as error:
        raise BrokenConnectionError(f"{type(error).__name__} {error}") from error
