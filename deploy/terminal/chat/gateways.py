"""The gateways of a mesh: where they are, what they serve, and the one that answers now."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from openai import APIError, APIResponseValidationError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import InvalidStatus, WebSocketException

from deploy.local.access import http_options, is_address, is_local
from deploy.terminal.chat.answer import OTHERS_MAY
from deploy.terminal.chat.closes import NO_GATEWAY
from deploy.terminal.chat.patience import Patience
from shared.errors import ChatmeshError

OPEN_TIMEOUT_S = 5.0
_API_ROOT = "/v1"
_PROXIES = ("all_proxy", "https_proxy", "http_proxy")
_SHOWN_CHARACTERS = 300


class ChatError(ChatmeshError):
    """What ends the chat; says what to do."""


def base_urls(given: Sequence[str], environment: Mapping[str, str], of_run: str | None) -> list[str]:
    """Where to look for gateways: what the user says, OPENAI_BASE_URL, this folder's `make run`, this machine's PORT.

    Each may be several, separated by commas, with or without `/v1`. Raises ChatError for what is no address, and where
    none is among what was named.
    """
    named = ",".join(given) or environment.get("OPENAI_BASE_URL", "")
    found = named or of_run or f"http://127.0.0.1:{environment.get('PORT') or 8080}"
    urls = [_with_root(url.strip()) for url in found.split(",") if url.strip()]
    if not urls:
        raise ChatError(f"{named!r} names no gateway: write http://host:port")
    return urls


def _with_root(url: str) -> str:
    if not is_address(url):
        raise ChatError(f"{url!r} is no address of a gateway: write http://host:port")
    parts = urlsplit(url)
    return (url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{_API_ROOT}").rstrip("/")


@contextmanager
def understood(url: str) -> Iterator[None]:
    """What no gateway of ours says, and nothing in the block can read, is a ChatError."""
    try:
        yield
    except (AttributeError, TypeError, LookupError, ValueError, RecursionError, APIResponseValidationError) as error:
        raise ChatError(f"{url} {NO_GATEWAY}") from error


def _client(url: str, api_key: str) -> AsyncOpenAI:
    """Raises ChatError where the environment names a proxy that cannot be used, SettingsError for authorities that
    cannot."""
    options = http_options(url)
    try:
        http = DefaultAsyncHttpxClient(**options)
        return AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=OPEN_TIMEOUT_S, http_client=http)
    except Exception as error:  # of the HTTP client, which names no base for its errors
        proxies = " or ".join(name for name in os.environ if name.lower() in _PROXIES)
        raise ChatError(f"the proxy that {proxies or 'the environment'} names cannot be used: {error}") from error


@dataclass
class Gateways:
    """One SDK client for each gateway, and the one in use. Calls go on to the next one where it does not answer."""

    urls: list[str]
    api_key: str

    def __post_init__(self) -> None:
        self._clients = [_client(url, self.api_key) for url in self.urls]
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
                with understood(self.url):
                    return [_name_of(model) async for model in self.client.models.list()]
            except APIError as said:
                error = said
            if isinstance(error, APIStatusError) and error.status_code not in OTHERS_MAY:
                break
            self.next()
        raise self._failed(error) from error

    async def connect(self, query: dict[str, str], patience: Patience) -> AsyncResponsesConnection:
        """A WebSocket to the first gateway that takes one; tries them in turn as long as `patience` endures.

        The SDK's own `on_reconnecting` knows one gateway, gives up after five tries and cannot send again what nobody
        has answered yet; so every connection here is a new one. Raises ChatError.
        """
        while True:
            patience.count()
            try:
                return await self._connect(query)
            except (OSError, TimeoutError, WebSocketException) as error:
                denied = isinstance(error, InvalidStatus) and error.response.status_code not in OTHERS_MAY
                if denied or not await patience.endures():
                    raise self._failed(error) from error
            self.next()

    async def _connect(self, query: dict[str, str]) -> AsyncResponsesConnection:
        options: Any = {"open_timeout": OPEN_TIMEOUT_S, **({"proxy": None} if is_local(self.url) else {})}
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


def _name_of(model: Any) -> str:
    """The SDK checks nothing of what it reads."""
    if not isinstance(model.id, str):
        raise TypeError("a model without a name")
    return model.id


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
