"""The gateways of a mesh: where they are, what they serve, and the one that answers now."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from openai import APIError, APIStatusError, AsyncOpenAI
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import InvalidStatus, WebSocketException

from shared.errors import ChatmeshError

OPEN_TIMEOUT_S = 5.0
_OPEN_MESH_KEY = "none"
"""What the SDK is given where no key is set: it insists on one, and a mesh without keys ignores it."""
_RETRY_S = (0.1, 0.3, 1.0, 2.0)
_OTHERS_MAY = (429, 500, 502, 503, 504)
_API_ROOT = "/v1"
_SHOWN_CHARACTERS = 300


class ChatError(ChatmeshError):
    """What ends the chat; says what to do."""


def base_urls(given: Sequence[str], environment: Mapping[str, str], of_run: str | None) -> list[str]:
    """Where to look for gateways: what the user says, OPENAI_BASE_URL, this folder's `make run`, this machine's PORT.

    Each may be several, separated by commas, with or without `/v1`. Raises ChatError for what is no address.
    """
    named = ",".join(given) or environment.get("OPENAI_BASE_URL", "")
    found = named or of_run or f"http://127.0.0.1:{environment.get('PORT') or 8080}"
    return [_with_root(url.strip()) for url in found.split(",") if url.strip()]


def _with_root(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ChatError(f"{url!r} is no address of a gateway: write http://host:port")
    return (url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{_API_ROOT}").rstrip("/")


@dataclass
class Gateways:
    """One SDK client for each gateway, and the one in use. Calls go on to the next one where it does not answer."""

    urls: list[str]
    api_key: str | None = None

    def __post_init__(self) -> None:
        key = self.api_key or os.environ.get("OPENAI_API_KEY") or _OPEN_MESH_KEY
        options: Any = {"api_key": key, "max_retries": 0, "timeout": OPEN_TIMEOUT_S}
        self._clients = [AsyncOpenAI(base_url=url, **options) for url in self.urls]
        self._current = 0

    @property
    def url(self) -> str:
        """Of the one in use."""
        return self.urls[self._current]

    @property
    def client(self) -> AsyncOpenAI:
        """Of the one in use."""
        return self._clients[self._current]

    def __len__(self) -> int:
        return len(self.urls)

    def next(self) -> None:
        """Use the next one."""
        self._current = (self._current + 1) % len(self.urls)

    async def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients:
            await client.close()

    async def models(self) -> list[str]:
        """What the mesh serves. Raises ChatError."""
        error: APIError
        for _ in self.urls:
            try:
                return [model.id async for model in self.client.models.list()]
            except APIError as said:
                error = said
            if isinstance(error, APIStatusError) and error.status_code not in _OTHERS_MAY:
                break
            self.next()
        raise self._failed(error) from error

    async def connect(self, query: dict[str, str], patience_s: float) -> AsyncResponsesConnection:
        """A WebSocket to the first gateway that takes one; tries them in turn for `patience_s`, and each at least once.

        The SDK's own `on_reconnecting` knows one gateway, gives up after five tries and cannot send again what nobody
        has answered yet; so every connection here is a new one. Raises ChatError.
        """
        give_up_s = asyncio.get_running_loop().time() + patience_s
        tries = 0
        while True:
            try:
                return await self._connect(query)
            except (OSError, TimeoutError, WebSocketException) as error:
                denied = isinstance(error, InvalidStatus) and error.response.status_code not in _OTHERS_MAY
                last_try = (tries + 1) % len(self) == 0 and asyncio.get_running_loop().time() >= give_up_s
                if denied or last_try:
                    raise self._failed(error) from error
            self.next()
            tries += 1
            if tries % len(self) == 0:
                await asyncio.sleep(_RETRY_S[min(tries // len(self), len(_RETRY_S)) - 1])

    async def _connect(self, query: dict[str, str]) -> AsyncResponsesConnection:
        options: Any = {"open_timeout": OPEN_TIMEOUT_S}
        return await self.client.responses.connect(
            extra_query=dict(query), websocket_connection_options=options
        ).enter()

    def _failed(self, error: Exception) -> ChatError:
        """What to tell of the last try, at the gateway in use."""
        status, said = _told(error)
        if status == HTTPStatus.UNAUTHORIZED:
            return ChatError(f"{self.url} wants an API key: set OPENAI_API_KEY to one of the mesh's. It says: {said}")
        if status is not None:
            return ChatError(f"{self.url} answers {status}: {said}")
        where = " or ".join(self.urls)
        return ChatError(
            f"no gateway answers at {where}: start a mesh with `make run`, or say where one is with --base-url"
        )


def _told(error: Exception) -> tuple[int | None, str]:
    """The status and the words of an answer that was an error; (None, "") where nobody answered."""
    if isinstance(error, APIStatusError):
        return error.status_code, _message(error.response.content)
    if isinstance(error, InvalidStatus):
        return error.response.status_code, _message(error.response.body)
    return None, ""


def _message(body: bytes | bytearray | None) -> str:
    """The message in OpenAI's envelope of errors; as it is, where another server answered."""
    text = (body or b"").decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return " ".join(text.split())[:_SHOWN_CHARACTERS] or "(nothing)"
