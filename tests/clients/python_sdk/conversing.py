"""Conversations through the SDK, in the few words that several suites say."""

import asyncio
from contextlib import suppress
from typing import Any

import openai
import pytest

from tests.clients.python_sdk.sdk import Sdk
from tests.clients.scene import MODEL

NO_ITEM = "msg_019c0f3a7b107001a8f53c2e1d4b6a98"


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


async def created(sdk: Sdk, *texts: str, **fields: Any) -> Any:
    """A conversation, with an item of the user's for each of `texts`."""
    items = list(map(user, texts))
    return await sdk.call(lambda c: c.conversations.create(**({"items": items} if items else {}), **fields))


async def listed(sdk: Sdk, conversation_id: str, **query: Any) -> list[Any]:
    """All items, over as many pages as it takes; oldest first unless the query says otherwise."""
    query = {"order": "asc", **query}
    return await sdk.all(lambda c: c.conversations.items.list(conversation_id, **query))


async def page(sdk: Sdk, conversation_id: str, **query: Any) -> Any:
    """One page of items."""
    raw = await sdk.call(lambda c: c.conversations.items.with_raw_response.list(conversation_id, **query))
    return raw.parse()


def texts_of(items: list[Any]) -> list[str]:
    return ["".join(part.text for part in item.content) for item in items]


async def until_forgotten(sdk: Sdk, response_id: str) -> None:
    """The public log says `deleted` a moment after the DELETE of a conversation or an item, which its response went
    with (ARCHITECTURE.md, Known limits); from then on every gateway does."""
    async with asyncio.timeout(10):
        with suppress(openai.NotFoundError):
            while True:
                await sdk.call(lambda c: c.responses.retrieve(response_id))
                await asyncio.sleep(0.05)


async def nothing_finds(sdk: Sdk, conversation_id: str, item_id: str = NO_ITEM) -> None:
    """Every call that names the conversation says 404."""
    for do in (
        lambda c: c.conversations.retrieve(conversation_id),
        lambda c: c.conversations.update(conversation_id, metadata={}),
        lambda c: c.conversations.delete(conversation_id),
        lambda c: c.conversations.items.create(conversation_id, items=[user("x")]),
        lambda c: c.conversations.items.retrieve(item_id, conversation_id=conversation_id),
        lambda c: c.conversations.items.delete(item_id, conversation_id=conversation_id),
        lambda c: c.responses.create(model=MODEL, input="x", conversation=conversation_id),
        lambda c: c.responses.create(model=MODEL, input="x", conversation={"id": conversation_id}, stream=True),
        lambda c: c.responses.input_tokens.count(model=MODEL, input="x", conversation=conversation_id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.call(do)
        assert caught.value.code == "conversation_not_found"
        assert conversation_id in caught.value.message
    with pytest.raises(openai.NotFoundError):
        await listed(sdk, conversation_id)
