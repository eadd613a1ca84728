"""Requests whose end two readers may see at two places: none of them lets a second request in behind it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from services.gateway.api.middleware import ReplyHeaders
from services.gateway.web.protocols import HttpProtocol

WAIT_S = 5
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    """Of a server with our protocol and our outermost middleware, which answers with the path."""

    async def path(request: Request) -> PlainTextResponse:
        await request.body()
        return PlainTextResponse(f"at {request.url.path}")

    app = Starlette(
        routes=[Route("/{path:path}", path, methods=["GET", "POST"])],
        middleware=[Middleware(ReplyHeaders, ledger=SimpleNamespace())],
    )
    app.state.parts = SimpleNamespace(meter=SimpleNamespace(refused=lambda _: None))
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HttpProtocol, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve([bound]))
    yield bound.getsockname()[1]
    server.should_exit = True
    await serving


async def answers(port: int, *sent: bytes) -> bytes:
    """All that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"\r\n".join(sent))
        return await asyncio.wait_for(reader.read(-1), WAIT_S)
    finally:
        writer.close()


def post(*headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /seen HTTP/1.1", b"Host: a", *headers, b"", b""))


@pytest.mark.parametrize(
    "request_and_more",
    [
        post(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
        post(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"0\r\n\r\n" + HIDDEN,
        post(b"Content-Length: 0", b"Content-Length: 33") + HIDDEN,
        post(b"Transfer-Encoding: xchunked") + HIDDEN,
        post(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + HIDDEN,
        post(b"Content-Length : 4") + HIDDEN,
        post(b"Content-Length: +4") + b"body" + HIDDEN,
        b"POST /seen HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + HIDDEN,
    ],
)
async def test_a_request_of_doubtful_length_is_refused_and_the_connection_ends(
    port: int, request_and_more: bytes
) -> None:
    said = await answers(port, request_and_more)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in said
    assert said.count(b"HTTP/1.1 400 ") == 1 and b"at /" not in said


async def test_one_of_a_plain_length_is_answered_and_so_is_what_follows_it(port: int) -> None:
    after: Any = HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    said = await answers(port, post(b"Content-Length: 4") + b"body" + after)
    assert said.count(b"HTTP/1.1 200 ") == 2 and b"at /seen" in said and b"at /hidden" in said
