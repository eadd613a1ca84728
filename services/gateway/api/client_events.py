"""What a client says over a WebSocket, event by event. Pure."""

import re
from typing import Annotated, Any

import msgspec
from pydantic import Discriminator, Tag

from services.gateway.api.schema import CreateOverSocket, parse_event
from services.gateway.api.validation import Strict, parse, shape
from services.gateway.errors import bad_request

CREATE = "response.create"
STEER = "response.steer"
_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_ENVELOPE = frozenset({"type", "stream_id", "stream", "background"})


class Steer(Strict):
    """`response.steer` without its envelope: input for a response that runs."""

    previous_response_id: str
    input: Annotated[
        Annotated[str, Tag("#text")] | Annotated[list[dict[str, Any]], Tag("#items")],
        Discriminator(shape),
    ]


def type_of(event: dict[str, Any]) -> str:
    """`CREATE` or `STEER`. Raises ApiError 400."""
    kind = event.get("type")
    if kind is None:
        raise bad_request("Missing required parameter: 'type'.", code="missing_required_parameter", param="type")
    if kind not in (CREATE, STEER):
        raise bad_request(
            f"Invalid value for 'type': {str(kind)[:80]!r}. Supported values are: '{CREATE}' and '{STEER}'.",
            param="type",
        )
    return str(kind)


def stream_id_of(event: dict[str, Any]) -> str | None:
    """The lane; None is the default one. Raises ApiError 400."""
    value = event.get("stream_id")
    if value is None:
        return None
    if not isinstance(value, str) or _STREAM_ID.fullmatch(value) is None:
        raise bad_request(
            "The 'stream_id' field must be a non-empty string with at most 256 characters and may only contain "
            "letters, numbers, underscores, hyphens, and periods.",
            code="invalid_stream_id",
            param="stream_id",
        )
    return value


def parse_request(event: dict[str, Any]) -> CreateOverSocket:
    """The request inside `response.create`. Raises ApiError 400.

    `stream` says nothing here, and some clients always send it. A warm-up (`generate` false) may have no input yet.
    """
    if event.get("background"):
        raise bad_request(
            "'background' is not supported over WebSocket: send the request to POST /v1/responses.",
            code="unsupported_parameter",
            param="background",
        )
    fields = {name: value for name, value in event.items() if name not in _ENVELOPE}
    return parse_event({"input": [], **fields} if fields.get("generate") is False else fields)


def steer_failed(event: dict[str, Any], lane: str | None) -> str:
    """The answer to `response.steer`, which gives the input back: nobody steers here.

    `lane`: that of the response, if it runs on this connection. Raises ApiError 400 for a malformed event.
    """
    steer = parse(Steer, {name: value for name, value in event.items() if name not in _ENVELOPE}, {})
    # Items may leave their type out; in the answer it is required.
    given = steer.input if isinstance(steer.input, str) else [{"type": "message", **item} for item in steer.input]
    failed: dict[str, Any] = {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "This server does not support steering. Send the input with 'response.create' once the "
            "response has ended.",
        },
        "steer": {"previous_response_id": steer.previous_response_id, "input": given},
    }
    if lane is not None:
        failed["stream_id"] = lane
    return msgspec.json.encode(failed).decode()
