"""How long HTTP requests take, by the templates of their paths. Pure ASGI."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.meter import GatewayMeter

UNKNOWN_ROUTE = "unknown"
"""Of a path that is not served; what clients make up is no label."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_OTHER_METHOD = "_OTHER"
"""As OpenTelemetry's conventions call what is none of them."""

Endpoints = Mapping[Callable[..., Any], str]
"""Endpoint → its path as the router has it."""


class Measured:
    """Measures every HTTP request up to the last byte of its answer. WebSockets are no requests: see their streams.

    Those to the paths `probed` are not measured: a balancer's probes say nothing of users, and are many.
    """

    def __init__(self, app: ASGIApp, meter: GatewayMeter, endpoints: Endpoints, probed: Collection[str]) -> None:
        self._app = app
        self._meter = meter
        self._endpoints = endpoints
        self._probed = probed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._probed:
            await self._app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), ""

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = status or "500"  # which Starlette answers outside of us
            raise
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
            # Starlette names the endpoint once it has found it.
            route = self._endpoints.get(scope["endpoint"], UNKNOWN_ROUTE) if "endpoint" in scope else UNKNOWN_ROUTE
            self._meter.answered(method, route, status, time.perf_counter() - began_s)
