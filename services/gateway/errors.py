"""What a client can be told instead of what it asked for: an HTTP status and OpenAI's four keys."""

from collections.abc import Mapping
from typing import Any

from shared.errors import AccessDeniedError, ChatmeshError, LogError

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_exceeded"

UNREADABLE = (LogError, AccessDeniedError)
"""What who reads the log for a client meets and tells it as 503. A right that was withdrawn ends the gateway, but not
from here: its tails meet that as well, and who asks is told to come again, perhaps to another one."""


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


def conversation_not_found(conversation_id: str, *, param: str = "conversation_id") -> ApiError:
    """404, as for responses the same for whatever is not the caller's."""
    message = f"Conversation with id '{conversation_id[:80]}' not found."
    return ApiError(404, message, code="conversation_not_found", param=param)


def item_not_found(item_id: str, *, param: str = "item_id") -> ApiError:
    """404, the same for an unknown item and for one of a conversation that is not the caller's to see."""
    return ApiError(404, f"Item with id '{item_id[:80]}' not found.", code="item_not_found", param=param)


def cursor_not_found(after: str) -> ApiError:
    """400: a page is to begin behind what is not in the list."""
    return bad_request(f"Invalid 'after': no item with id '{after[:80]}' in this list.", param="after")


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
