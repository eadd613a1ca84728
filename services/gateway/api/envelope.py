"""How an error, or any JSON, is written: OpenAI's envelope, for HTTP and for WebSocket, with all four keys always."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from services.gateway.errors import ApiError


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
