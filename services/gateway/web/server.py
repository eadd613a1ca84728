"""The HTTP server: uvicorn, bound by us, stopped by us."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from services.gateway.settings import GatewaySettings
from services.gateway.web.protocols import HttpProtocol, WebSocketProtocol
from shared.errors import SettingsError

FRAME_SLACK = 2
"""A message up to so many times the limit is read whole, so that its sender is told why before the connection closes
(`api.realtime`); a larger one closes it unread."""


def bind(settings: GatewaySettings) -> socket.socket:
    """Take the port; clients are refused until the server listens. Raises SettingsError that names the port.

    Connections inherit the options. The send buffer is bounded because the kernel lets it grow to megabytes: a client
    that does not read would look as if it kept up, and thousands of them would take gigabytes.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A closed connection is held until the peer has read it; Linux gives up on one that reads nothing (tcp(7)).
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.silent_peer_s * 1000))
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise SettingsError(f"PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return bound


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process's own decide (shared.runtime)."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, bound: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                http=HttpProtocol,
                ws=WebSocketProtocol,
                ws_max_size=FRAME_SLACK * settings.body_limit_bytes,
                # Half-open connections are noticed within the sum of both. A pong waits behind what its sender has not
                # read yet: whoever is merely slow must not be taken for gone.
                ws_ping_interval=settings.ping_interval_s,
                ws_ping_timeout=settings.silent_peer_s,
                # Compression would cost 64 KiB a connection, for frames of a few dozen bytes.
                ws_per_message_deflate=False,
                # Who is on this machine is judged by the peer's real address (auth.LoopbackOnly).
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                log_level="warning",
                # The streams have drained before; this is for peers that do not read what was written to them.
                timeout_graceful_shutdown=1,
            )
        )
        self._bound = bound
        logging.getLogger("uvicorn.error").addFilter(_is_a_failure)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def run_until_exit(self) -> None:
        """Serve until `should_exit`; then close what is still connected, WebSockets with 1012, within bounds."""
        await self.serve(sockets=[self._bound])
        # uvicorn cancels what is left at its deadline, but does not wait for it.
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)

    async def leave(self, serving: "asyncio.Task[None]") -> None:
        """Exit, and return once `serving`, the task of `run_until_exit`, has ended. Raises nothing of its."""
        self.should_exit = True
        await asyncio.wait({serving})


_NO_FAILURES = frozenset(
    {
        # A stream without its last chunk is how a client learns that it must resume; we log the cause ourselves.
        "ASGI callable returned without completing response.",
        # A client's fault: its connection is closed with 1007.
        "Invalid UTF-8 sequence received from client.",
    }
)


def _is_a_failure(record: logging.LogRecord) -> bool:
    """Whether uvicorn's record is of a failure at all: what it takes for errors need not be ours."""
    return record.msg not in _NO_FAILURES
