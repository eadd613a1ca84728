"""OpenAI's error envelope, for HTTP and for WebSocket. All four keys are there always."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from shared.errors import ChatmeshError

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_exceeded"


class ApiError(ChatmeshError):
    """What a client did wrong, or what we could not do for it: an HTTP `status` and the envelope's four keys."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        error_type: str = INVALID_REQUEST,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.error_type = error_type
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The inner `error` object."""
        return {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}


def bad_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> ApiError:
    """400: the request will never be accepted as it is."""
    return ApiError(400, message, code=code, param=param)


def not_found(response_id: str) -> ApiError:
    """404, the same for an unknown id and for another tenant's: nobody learns which ids exist."""
    return ApiError(404, f"Response with id '{response_id[:80]}' not found.", param="response_id")


def retry_after(ms: int) -> dict[str, str]:
    """When to come again: `retry-after` in whole seconds, rounded up, and `retry-after-ms`, which the SDKs prefer."""
    at_least_ms = max(1, ms)
    return {"retry-after": str(-(-at_least_ms // 1000)), "retry-after-ms": str(at_least_ms)}


def too_many(message: str, *, retry_after_s: int = 1) -> ApiError:
    """429 with when to come again: back-pressure at the edge (DESIGN 8.8)."""
    return ApiError(429, message, code=RATE_LIMIT, error_type=RATE_LIMIT, headers=retry_after(1000 * retry_after_s))


def unavailable(message: str, *, retry_after_s: int = 1) -> ApiError:
    """503: a part that we need does not answer; the SDKs retry."""
    headers = retry_after(1000 * retry_after_s)
    return ApiError(503, message, code=SERVER_ERROR, error_type=SERVER_ERROR, headers=headers)


def server_error(message: str) -> ApiError:
    """500: the response failed."""
    return ApiError(500, message, code=SERVER_ERROR, error_type=SERVER_ERROR)


def error_response(error: ApiError) -> Response:
    """The HTTP reply."""
    return json_response({"error": error.body()}, status=error.status, headers=error.headers)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply."""
    return Response(msgspec.json.encode(content), status, dict(headers or {}), media_type="application/json")


def error_event(error: ApiError, stream_id: str | None = None) -> str:
    """The WebSocket's `error` event; on a named lane with its `stream_id`."""
    event: dict[str, Any] = {"type": "error", "status": error.status}
    if stream_id is not None:
        event["stream_id"] = stream_id
    event["error"] = {**error.body(), **({"headers": error.headers} if error.headers else {})}
    return msgspec.json.encode(event).decode()
