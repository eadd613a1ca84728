"""Bytes from a client to a JSON object that the schema may look at; every refusal is a clear 4xx."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from services.gateway.errors import ApiError, bad_request

# How much of a body that is too large is read and thrown away: a connection that closes over unread bytes is reset,
# and the client then never sees the 413.
_DISCARD_BYTES = 16 * 1024 * 1024
_DISCARD_S = 10.0


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The request's body. Raises ApiError 413 if it is larger than `limit_bytes`, of which no more is ever held, and
    415 if it is compressed."""
    if int(request.headers.get("content-length", "0")) > limit_bytes + _DISCARD_BYTES:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    stream = request.stream()
    size = 0
    try:
        async for chunk in stream:
            size += len(chunk)
            if size > limit_bytes:
                await _discard(stream)
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise bad_request("The connection closed before the request body was complete.") from error
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise _encoded(coding)
    return b"".join(chunks)


async def _discard(stream: AsyncIterator[bytes]) -> None:
    """Read on until the end, within bounds."""
    size = 0
    with contextlib.suppress(TimeoutError):  # a slow sender is answered now, and perhaps does not see it
        async with asyncio.timeout(_DISCARD_S):
            async for chunk in stream:
                size += len(chunk)
                if size > _DISCARD_BYTES:
                    return


def parse_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object in UTF-8. Raises ApiError 400 that says what is wrong with it."""
    try:
        value = msgspec.json.decode(data)
    except RecursionError as error:
        raise bad_request("The JSON is nested too deeply.", code="invalid_json") from error
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not valid UTF-8 (byte {error.start}).", code="invalid_json") from error
    except msgspec.DecodeError as error:
        raise bad_request(f"The body could not be parsed as JSON: {error}.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request(f"The body must be a JSON object, but is {json_name(value)}.", code="invalid_type")
    # An escaped NUL is the only form in which JSON can hold one, so almost every body skips the walk.
    if (b"\\u0000" if isinstance(data, bytes) else "\\u0000") in data:  # type: ignore[operator]
        _refuse_nul(value, "")
    return value


def _refuse_nul(value: Any, path: str) -> None:
    """Stores and tokenizers cut text at a NUL, each in its own way: refuse it by name."""
    if isinstance(value, str) and "\0" in value:
        raise bad_request(f"Invalid '{path}': NUL characters are not allowed.", param=path)
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nul(key, path or "the body")
            _refuse_nul(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_nul(inner, f"{path}[{index}]")


def _encoded(coding: str) -> ApiError:
    return ApiError(
        415,
        f"The request body has the content-encoding '{coding[:80]}'. Send it as it is.",
        code="unsupported_content_encoding",
        param="Content-Encoding",
        headers={"accept-encoding": "identity"},  # what would be taken (RFC 9110, 12.5.3)
    )


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {limit_bytes:,} bytes.",
        code="request_too_large",
        # Some of the body may still be on its way: this connection cannot be used again.
        headers={"connection": "close"},
    )


def json_name(value: Any) -> str:
    """How an error message calls a value of this JSON type."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")
