"""The SDK's error classes, its retries and its time limits, against what the gateway answers."""

import asyncio
import time
from typing import Any

import openai
import pytest

from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import GLOBEX, LONG, MODEL, UNKNOWN, Line, Scene

TEXT = "The log is the stream."
NOBODYS = "resp_019c0f3a7b1070018a5f3c2e1d4b6a98"


def create(**fields: Any) -> Any:
    return lambda c: c.responses.create(**{"model": MODEL, "input": TEXT, **fields})


@pytest.mark.parametrize(
    ("do", "error", "code"),
    [
        (create(temperature=3), openai.BadRequestError, None),
        (create(extra_body={"colour": "red"}), openai.BadRequestError, "unknown_parameter"),
        (create(input="word " * 20_000), openai.BadRequestError, "context_length_exceeded"),
        (create(input="a green submarine"), openai.BadRequestError, "content_policy_violation"),
        (create(previous_response_id=NOBODYS), openai.BadRequestError, "previous_response_not_found"),
        (create(tools=[{"type": "web_search"}]), openai.BadRequestError, "unsupported_parameter"),
        (create(model="gpt-none"), openai.NotFoundError, "model_not_found"),
        (create(stream=True, model="gpt-none"), openai.NotFoundError, "model_not_found"),
        (create(stream=True, input="a green submarine"), openai.BadRequestError, "content_policy_violation"),
        (lambda c: c.responses.retrieve(NOBODYS), openai.NotFoundError, None),
        (lambda c: c.responses.retrieve(NOBODYS, stream=True), openai.NotFoundError, None),
        (lambda c: c.responses.cancel(NOBODYS), openai.NotFoundError, None),
        (lambda c: c.models.retrieve("gpt-none"), openai.NotFoundError, "model_not_found"),
        (lambda c: c.embeddings.create(model=MODEL, input=TEXT), openai.NotFoundError, None),
    ],
)
async def test_a_bad_call_raises_its_class(sdk: Sdk, do: Any, error: type[openai.APIStatusError], code: str) -> None:
    with pytest.raises(error) as caught:
        await sdk.call(do)
    raised = caught.value
    assert type(raised) is error
    assert raised.type == "invalid_request_error"
    assert isinstance(raised.body, dict)
    assert raised.body.keys() == {"message", "type", "param", "code"}
    assert raised.body["message"]
    assert raised.request_id
    assert code is None or raised.code == code


async def test_an_unknown_key(scene: Scene) -> None:
    sdk = client("async", scene.url, UNKNOWN)
    with pytest.raises(openai.AuthenticationError) as caught:
        await sdk.call(create())
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
    await sdk.close()


async def test_another_tenants_response_does_not_exist(sdk: Sdk, scene: Scene) -> None:
    ours = await sdk.call(create())
    theirs = client("async", scene.other_url, GLOBEX)
    for do in (
        lambda c: c.responses.retrieve(ours.id),
        lambda c: c.responses.retrieve(ours.id, stream=True),
        lambda c: c.responses.cancel(ours.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await theirs.call(do)
    with pytest.raises(openai.BadRequestError) as caught:
        await theirs.call(create(previous_response_id=ours.id))
    assert caught.value.code == "previous_response_not_found"
    await theirs.close()


async def test_raw_responses_show_the_headers(sdk: Sdk) -> None:
    raw = await sdk.call(lambda c: c.responses.with_raw_response.create(model=MODEL, input=TEXT))
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().output_text == TEXT


async def test_streamed_raw_responses_show_the_headers(asdk: Sdk) -> None:
    streaming = asdk.aclient.responses.with_streaming_response
    async with streaming.create(model=MODEL, input=TEXT, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["cache-control"] == "no-store"
        assert raw.headers["x-request-id"]
        lines = [line async for line in raw.iter_lines()]
    assert lines[0] == "event: response.created"


async def test_every_result_names_its_request(sdk: Sdk) -> None:
    first, second = [await sdk.call(create()) for _ in range(2)]
    assert first._request_id
    assert first._request_id != second._request_id


async def test_a_time_limit_of_the_client(scene: Scene) -> None:
    sdk = client("async", scene.url, timeout=0.5)
    started_s = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        await sdk.call(create(input=LONG))
    assert time.monotonic() - started_s < 5
    await scene.until_idle()
    await sdk.close()


async def test_a_lost_connection_is_tried_again(scene: Scene) -> None:
    """The client's second try comes to the other gateway, and is answered."""
    async with Line(["http://127.0.0.1:9/v1", scene.other_url]) as line:
        sdk = client("async", line.url, max_retries=2)
        assert (await sdk.call(create())).output_text == TEXT
        assert line.connections == 2
        await sdk.close()


async def test_a_broken_stream_is_an_error_not_an_end(scene: Scene) -> None:
    async with Line([scene.url]) as line:
        sdk = client("async", line.url)
        seen: list[Any] = []
        with pytest.raises((openai.APIConnectionError, openai.APIError)):
            async for event in sdk.each(create(stream=True, input=LONG)):
                seen.append(event)
                if event.type == "response.output_text.delta":
                    line.cut()
        assert seen[-1].type == "response.output_text.delta"
        await sdk.close()
    await scene.until_idle()


async def test_many_at_once_do_not_mix(asdk: Sdk, other: Sdk) -> None:
    texts = [f"caller {n} says {n * n}" for n in range(40)]

    async def ask(n: int) -> str:
        response = await (asdk, other)[n % 2].call(create(input=texts[n]))
        return str(response.output_text)

    assert await asyncio.gather(*map(ask, range(len(texts)))) == texts
