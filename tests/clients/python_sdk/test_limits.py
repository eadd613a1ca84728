"""Rate limits and idempotency keys as the SDK's users meet them, over both gateways."""

import asyncio
import contextlib
from typing import Any

import openai
import pytest

from tests.clients.python_sdk.sdk import Sdk, client, server_event
from tests.clients.scene import FEW, MODEL, Scene

TEXT = "The log is the stream."
ASK: dict[str, Any] = {"model": MODEL, "input": TEXT}


async def test_a_limit_per_minute(scene: Scene) -> None:
    here, there = (client("async", url, FEW["python"]) for url in (scene.url, scene.other_url))
    first = await here.call(lambda c: c.responses.with_raw_response.create(**ASK))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}]}
    await there.call(lambda c: c.chat.completions.create(**chat))
    for sdk in (here, there):
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.call(lambda c: c.responses.create(**ASK))
        headers = caught.value.response.headers
        assert caught.value.code == "rate_limit_exceeded"
        assert 0 < int(headers["retry-after-ms"]) <= 60_000
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"]
        await sdk.close()


async def test_a_limit_per_minute_on_a_websocket(scene: Scene) -> None:
    sdk = client("async", scene.url, FEW["websocket"])
    async with asyncio.timeout(30), sdk.aclient.responses.connect() as connection:
        ends = []
        for _ in range(3):
            await connection.response.create(**ASK)
            while (event := server_event(await connection.recv_bytes())).type not in ("response.completed", "error"):
                pass
            ends.append(event)
    assert [event.type for event in ends] == ["response.completed", "response.completed", "error"]
    assert (ends[2].status, ends[2].error.code) == (429, "rate_limit_exceeded")
    await sdk.close()


def keyed(key: str, **fields: Any) -> Any:
    return lambda c: c.responses.create(extra_headers={"Idempotency-Key": key}, **{**ASK, **fields})


async def test_a_request_sent_twice_is_answered_once(sdk: Sdk, other: Sdk) -> None:
    key = f"twice-{sdk.is_async}"
    first, second = await asyncio.gather(sdk.call(keyed(key)), other.call(keyed(key)))
    assert first.id == second.id
    again = await other.all(keyed(key, stream=True))
    assert again[-1].response.id == first.id
    assert again[-1].response.output_text == TEXT


async def test_a_key_used_for_something_else(sdk: Sdk, other: Sdk) -> None:
    key = f"else-{sdk.is_async}"
    await sdk.call(keyed(key))
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await other.call(keyed(key, input="Something else."))
    assert caught.value.code == "idempotency_key_reused"


async def test_a_refused_request_frees_its_key(asdk: Sdk) -> None:
    """Soon: that nothing came of the first request must go through the log before another one may have its key."""
    with pytest.raises(openai.BadRequestError):
        await asdk.call(keyed("freed", input="a green submarine"))
    response = None
    async with asyncio.timeout(10):
        while response is None:
            with contextlib.suppress(openai.UnprocessableEntityError):
                response = await asdk.call(keyed("freed"))
    assert response.output_text == TEXT
