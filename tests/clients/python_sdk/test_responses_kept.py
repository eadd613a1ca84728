"""Calls on `client.responses` that keep, count, list and erase; log probabilities."""

from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.clients.python_sdk.sdk import Sdk
from tests.clients.scene import MODEL

TEXT = "The log is the stream."


async def create(sdk: Sdk, prompt: Any = TEXT, **fields: Any) -> Response:
    response: Response = await sdk.call(lambda c: c.responses.create(model=MODEL, input=prompt, **fields))
    return response


async def listed(sdk: Sdk, response_id: str, **query: Any) -> list[Any]:
    return await sdk.all(lambda c: c.responses.input_items.list(response_id, **query))


async def counted_by(sdk: Sdk, **fields: Any) -> Any:
    return await sdk.call(lambda c: c.responses.input_tokens.count(model=MODEL, input=TEXT, **fields))


def dump(response: Response) -> dict[str, Any]:
    return response.to_dict()


async def test_create_gives_log_probabilities(asdk: Sdk) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await create(asdk, **fields)
    whole = dump(response)["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in whole).startswith(TEXT)
    events = await asdk.all(lambda c: c.responses.create(model=MODEL, input=TEXT, stream=True, **fields))
    streamed = [p for e in events if e.type == "response.output_text.delta" for p in e.logprobs or []]
    assert [entry.token for entry in streamed] == [entry["token"] for entry in whole]


async def test_delete(sdk: Sdk, other: Sdk) -> None:
    created = await create(sdk)
    assert await sdk.call(lambda c: c.responses.delete(created.id)) is None
    for reader in (sdk, other):
        with pytest.raises(openai.NotFoundError):
            await reader.call(lambda c: c.responses.retrieve(created.id))
        with pytest.raises(openai.NotFoundError):
            await reader.call(lambda c: c.responses.delete(created.id))
    with pytest.raises(openai.BadRequestError) as caught:
        await create(sdk, previous_response_id=created.id)
    assert caught.value.code == "previous_response_not_found"


async def test_input_items_list_pages(sdk: Sdk) -> None:
    words = [f"item {n}" for n in range(7)]
    created = await create(sdk, [{"role": "user", "content": word} for word in words])
    for order, expected in (("asc", words), ("desc", words[::-1])):
        items = await listed(sdk, created.id, limit=3, order=order)
        assert [item.content[0].text for item in items] == expected
        assert len({item.id for item in items}) == len(words)


async def test_input_tokens_count(sdk: Sdk) -> None:
    for fields in ({}, {"instructions": "Be brief."}):
        counted = await counted_by(sdk, **fields)
        used = (await create(sdk, **fields)).usage
        assert used is not None
        assert counted.input_tokens == used.input_tokens
        assert counted.object == "response.input_tokens"


async def test_store_false_is_found_by_nobody(sdk: Sdk, other: Sdk) -> None:
    created = await create(sdk, store=False)
    with pytest.raises(openai.NotFoundError):
        await other.call(lambda c: c.responses.retrieve(created.id))
    with pytest.raises(openai.BadRequestError) as caught:
        await create(other, previous_response_id=created.id)
    assert caught.value.code == "previous_response_not_found"
