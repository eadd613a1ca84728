"""The HTTP server: uvicorn, bound by us, stopped by us."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from services.gateway.settings import GatewaySettings
from shared.errors import SettingsError


def bind(settings: GatewaySettings) -> socket.socket:
    """Take the port; clients are refused until the server listens. Raises SettingsError that names the port."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
                ws="websockets-sansio",
                ws_max_size=settings.body_limit_bytes,
                # Compression would cost 64 KiB a connection, for frames of a few dozen bytes.
                ws_per_message_deflate=False,
                # Who is on this machine is judged by the peer's real address (auth.LoopbackOnly).
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                log_level="warning",
                # The rest of `shutdown_s` is for what comes after: the last records and the consumers.
                timeout_graceful_shutdown=max(1, round(settings.shutdown_s / 2)),
            )
        )
        self._bound = bound

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def run_until_exit(self) -> None:
        """Serve until `should_exit`; then close WebSockets with 1012 and let HTTP responses end, within bounds."""
        await self.serve(sockets=[self._bound])
        # uvicorn cancels what is left at its deadline, but does not wait for it.
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
