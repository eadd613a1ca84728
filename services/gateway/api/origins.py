"""Which web pages may use this gateway: one rule for WebSockets, which browsers do not hold back, and for HTTP (CORS).

Clients other than browsers name no origin and are always let in; their key is what counts.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.api.refusing import refuse
from services.gateway.auth import is_loopback
from services.gateway.errors import ApiError

VARIABLE = "CHATMESH_ALLOWED_ORIGINS"
ANY = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_METHODS = "GET, POST, DELETE"
_PREFLIGHT_S = 600
_EXPOSED = ", ".join(
    (
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "retry-after-ms",
        *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    )
)


def parse_origins(text: str) -> frozenset[str]:
    """`https://a.example,http://b.example:8080`, `*`, `null` or nothing, normalised as browsers write origins.

    Raises ValueError that names the one that is none.
    """
    return frozenset(_normalised(part.strip()) for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class Origins:
    """Pages of this machine are let in always, those of `allowed` (or any, with `*`) too.

    `same_host`: also pages that this gateway's own host serves. Without API keys that must not be: a page whose name
    was bound anew to this machine's address (DNS rebinding) has the gateway's host as its own.
    """

    allowed: frozenset[str]
    same_host: bool

    def allows(self, origin: str, host: str) -> bool:
        """`origin`: as in the header of that name; `host`: the request's `Host`."""
        origin = origin.lower()
        if ANY in self.allowed or origin in self.allowed:
            return True
        page = _split(origin)
        if page is None or page.scheme not in _DEFAULT_PORTS:
            return False
        name = page.hostname or ""
        return is_loopback(name) or name.endswith(".localhost") or (self.same_host and page.netloc == host.lower())


class CrossOrigin:
    """ASGI middleware: answers preflights, refuses pages that are not let in with 403, lets the others read replies.

    No cookies are ever looked at, so credentials in the browser's sense are not allowed.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        origin = Headers(scope=scope).get("origin") if scope["type"] in ("http", "websocket") else None
        if origin is None:
            return self._app(scope, receive, send)
        return self._of_page(origin, scope, receive, send)

    async def _of_page(self, origin: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        allowed = self._origins.allows(origin, headers.get("host", ""))
        if not allowed:
            await refuse(_refusal(origin), scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(origin, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, _readable_by(origin, send))


def _readable_by(origin: str, send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = _EXPOSED
            headers.add_vary_header("origin")
        await send(message)

    return send_with_headers


def _preflight(origin: str, headers: Headers) -> Response:
    """Whatever headers the page wants to send: the SDKs have many (`x-stainless-*`), and none of them is trusted."""
    granted = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
        "access-control-max-age": str(_PREFLIGHT_S),
        "vary": "origin, access-control-request-headers, access-control-request-private-network",
    }
    if "access-control-request-private-network" in headers:
        granted["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=granted)


def _refusal(origin: str) -> ApiError:
    return ApiError(
        403,
        f"Pages of {origin[:100]!r} are not let in by this server. Its operator can allow them with {VARIABLE}.",
        code="origin_not_allowed",
    )


def _normalised(text: str) -> str:
    lowered = text.lower()
    if lowered in (ANY, "null"):
        return lowered
    page = _split(lowered)
    if page is None or not page.scheme or not page.hostname or page.path not in ("", "/") or page.query:
        raise ValueError(f"{text!r} is no origin such as https://chat.example.org")
    port = page.port
    host = f"[{page.hostname}]" if ":" in page.hostname else page.hostname
    shown = "" if port is None or port == _DEFAULT_PORTS.get(page.scheme) else f":{port}"
    return f"{page.scheme}://{host}{shown}"


def _split(origin: str) -> SplitResult | None:
    """The parts of an origin, None if it is none."""
    try:
        page = urlsplit(origin)
        _ = page.port  # raises where it is no number
    except ValueError:
        return None
    return page
