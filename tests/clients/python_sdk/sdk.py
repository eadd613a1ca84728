"""The official Python SDK, unmodified, with strict validation: sync and async clients behind one way to call them."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import openai
from openai._models import BaseModel, validate_type
from openai.types.responses import ResponsesServerEvent

from tests.clients.scene import ACME

BEYOND_THE_SDK = {
    # the first three are in the Open Responses specification, the others are our extensions, echoed where they are used
    "Response": {"frequency_penalty", "presence_penalty", "store", "seed", "stop", "top_k"},
    "Model": {"context_window"},  # what a front end must know to count a prompt
    # a character may take several tokens, so that only bytes tell what each of them said
    "Logprob": {"bytes"},
    "LogprobTopLogprob": {"bytes"},
    # what a category's score comes from: a model, the policy's rules, or nothing at all
    "Moderation": {"category_sources"},
    "ModerationInputModerationResult": {"category_sources"},
    "ModerationOutputModerationResult": {"category_sources"},
    "ModerationInputModerationResultsResult": {"category_sources"},
    "ModerationOutputModerationResultsResult": {"category_sources"},
}
"""Fields that we send and the SDK's types lack, by the type's name."""

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
"""Types of the events after which a WebSocket's response says no more."""

Client = openai.OpenAI | openai.AsyncOpenAI
T = TypeVar("T")


@dataclass
class Sdk:
    """A client of one kind. What it is told to do gets the client; sync calls run in a thread."""

    client: Client

    @property
    def is_async(self) -> bool:
        return isinstance(self.client, openai.AsyncOpenAI)

    @property
    def aclient(self) -> openai.AsyncOpenAI:
        assert isinstance(self.client, openai.AsyncOpenAI)
        return self.client

    @property
    def sclient(self) -> openai.OpenAI:
        assert isinstance(self.client, openai.OpenAI)
        return self.client

    async def close(self) -> None:
        """Close the client's connections."""
        if isinstance(self.client, openai.AsyncOpenAI):
            await self.client.close()
        else:
            self.client.close()

    async def call(self, do: Callable[[Any], Any]) -> Any:
        """What a call returns, after a look for fields that the SDK does not know."""
        return known(await self._made(do))

    async def all(self, do: Callable[[Any], Any]) -> list[Any]:
        """What a call's stream or pages hold."""
        return [item async for item in self.each(do)]

    async def each(self, do: Callable[[Any], Any]) -> AsyncIterator[Any]:
        """The items of a call's stream or pages, one at a time; leaving the loop closes the stream."""
        stream = await self._made(do)
        try:
            async for item in _iterated(stream):
                yield known(item)
        finally:
            if hasattr(stream, "close"):
                await self._made(lambda _: stream.close())

    async def helped(self, do: Callable[[Any], Any], final: str) -> tuple[list[Any], Any]:
        """The events of a `.stream()` helper, and what its method `final` gives at the end."""
        if self.is_async:
            async with do(self.client) as stream:
                return [event async for event in stream], await getattr(stream, final)()
        return await asyncio.to_thread(_helped_sync, do, self.client, final)

    async def _made(self, do: Callable[[Any], Any]) -> Any:
        if not self.is_async:
            return await asyncio.to_thread(do, self.client)
        made = do(self.client)
        return await made if inspect.isawaitable(made) and not hasattr(made, "__aiter__") else made


def client(kind: str, base_url: str, api_key: str = ACME, **options: Any) -> Sdk:
    """A client of a kind, `sync` or `async`: no retries unless asked for, strict validation always."""
    make: Any = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
    settings = {"max_retries": 0, "timeout": 30.0, "_strict_response_validation": True}
    return Sdk(cast(Client, make(base_url=base_url, api_key=api_key, **{**settings, **options})))


def known(value: T) -> T:
    """`value`, if it holds no field that the SDK's types lack. Raises AssertionError that names the fields."""
    unknown = sorted(_unknown(value))
    assert not unknown, f"{type(value).__name__} has fields that the SDK does not know: {', '.join(unknown)}"
    return value


def server_event(message: bytes) -> Any:
    """A WebSocket message as one of ResponsesServerEvent, validated; the SDK's own connection does not validate."""
    return known(validate_type(type_=cast(Any, ResponsesServerEvent), value=json.loads(message)))


async def until_end(connection: Any, lane: str | None = None) -> list[Any]:
    """The events of the next response to end on a connection, of one lane where it is named."""
    events: list[Any] = []
    async with asyncio.timeout(30):
        while not events or events[-1].type not in ENDS:
            event = server_event(await connection.recv_bytes())
            if lane is None or event.stream_id == lane:
                events.append(event)
    return events


def _unknown(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, BaseModel):
        beyond = {name for kind in type(value).__mro__ for name in BEYOND_THE_SDK.get(kind.__name__, ())}
        yield from (f"{where}{name}" for name in value.model_extra or {} if name not in beyond)
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name, None), f"{where}{name}.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, f"{where}{index}.")


async def _iterated(stream: Any) -> AsyncIterator[Any]:
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
        return
    items, end = iter(stream), object()
    while (item := await asyncio.to_thread(next, items, end)) is not end:
        yield item


def _helped_sync(do: Callable[[Any], Any], client: Client, final: str) -> tuple[list[Any], Any]:
    with do(client) as stream:
        return list(stream), getattr(stream, final)()
