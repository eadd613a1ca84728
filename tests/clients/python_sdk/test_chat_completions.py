"""Each call on `client.chat.completions` that is served."""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.clients.python_sdk.sdk import Sdk
from tests.clients.scene import LONG, MODEL, Scene

TEXT = "The log is the stream."


def asked(text: str = TEXT, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


async def create(sdk: Sdk, text: str = TEXT, **fields: Any) -> ChatCompletion:
    completion: ChatCompletion = await sdk.call(lambda c: c.chat.completions.create(**asked(text, **fields)))
    return completion


async def streamed(sdk: Sdk, text: str = TEXT, **fields: Any) -> list[Any]:
    return await sdk.all(lambda c: c.chat.completions.create(stream=True, **asked(text, **fields)))


def said(chunks: list[Any], choice: int = 0) -> str:
    parts = [part for chunk in chunks for part in chunk.choices if part.index == choice]
    return "".join(part.delta.content or "" for part in parts)


async def test_create(sdk: Sdk) -> None:
    completion = await create(sdk)
    [choice] = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert (completion.object, completion.model) == ("chat.completion", MODEL)
    assert completion.id.startswith("chatcmpl-")
    usage = completion.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_create_streamed(sdk: Sdk) -> None:
    chunks = await streamed(sdk)
    assert len({(chunk.id, chunk.created, chunk.object, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert said(chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_create_streamed_with_usage(sdk: Sdk) -> None:
    chunks = await streamed(sdk, stream_options={"include_usage": True})
    whole = await create(sdk)
    assert said(chunks) == TEXT
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].usage == whole.usage


async def test_the_stream_helper(sdk: Sdk) -> None:
    events, completion = await sdk.helped(lambda c: c.chat.completions.stream(**asked()), "get_final_completion")
    assert completion.choices[0].message.content == TEXT
    assert [event.content for event in events if event.type == "content.done"] == [TEXT]
    assert [event.snapshot for event in events if event.type == "content.delta"][-1] == TEXT


async def test_parse_gives_text_as_it_is(sdk: Sdk) -> None:
    completion = await sdk.call(lambda c: c.chat.completions.parse(**asked()))
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].message.parsed is None


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_create_stops_at_the_token_limit(asdk: Sdk, limit: str) -> None:
    completion = await create(asdk, LONG, **{limit: 5})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    chunks = await streamed(asdk, LONG, **{limit: 5})
    assert chunks[-1].choices[0].finish_reason == "length"
    assert said(chunks) == completion.choices[0].message.content


@pytest.mark.parametrize("stop", [" the", [" stream", " is the"], ["never", "he log is t"]], ids=str)
async def test_create_ends_before_a_stop_string(asdk: Sdk, stop: str | list[str]) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    expected = TEXT[: min(TEXT.find(s) for s in stops if s in TEXT)]
    completion = await create(asdk, stop=stop)
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == (expected, "stop")
    chunks = await streamed(asdk, stop=stop)
    assert (said(chunks), chunks[-1].choices[0].finish_reason) == (expected, "stop")


async def test_create_cuts_what_the_policy_forbids(sdk: Sdk) -> None:
    text = "All is well today and here is a purple zeppelin for you, and more of it."
    completion = await create(sdk, text)
    assert completion.choices[0].finish_reason == "content_filter"
    chunks = await streamed(sdk, text)
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert said(chunks) == completion.choices[0].message.content
    assert "zeppelin" not in said(chunks)


async def test_create_several_choices(asdk: Sdk) -> None:
    one, three = await create(asdk), await create(asdk, n=3)
    assert [(choice.index, choice.message.content) for choice in three.choices] == [(n, TEXT) for n in range(3)]
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    chunks = await streamed(asdk, n=3)
    assert [said(chunks, choice) for choice in range(3)] == [TEXT] * 3
    ends = [part for chunk in chunks for part in chunk.choices if part.finish_reason]
    assert sorted(part.index for part in ends) == [0, 1, 2]


async def test_create_gives_log_probabilities(asdk: Sdk) -> None:
    completion = await create(asdk, logprobs=True, top_logprobs=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(entry.bytes or []) for entry in logprobs.content).decode().startswith(TEXT)
    assert all(entry.logprob <= 0 for entry in logprobs.content)
    chunks = await streamed(asdk, logprobs=True, top_logprobs=2)
    parts = [part.logprobs for chunk in chunks for part in chunk.choices]
    assert [e for part in parts if part and part.content for e in part.content] == logprobs.content


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5, "top_p": 0.25},
        {"seed": 7},
        {"presence_penalty": 0.5, "frequency_penalty": -0.5},
        {"user": "u-1"},
        {"safety_identifier": "s-1", "prompt_cache_key": "k-1"},
        {"metadata": {"team": "atlas"}, "store": True},
        {"service_tier": "auto"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"tool_choice": "none", "parallel_tool_calls": True},
        {"logit_bias": {}, "tools": []},
    ],
    ids=lambda fields: "-".join(fields),
)
async def test_create_takes(asdk: Sdk, fields: dict[str, Any]) -> None:
    assert (await create(asdk, **fields)).choices[0].message.content == TEXT


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Repeat."}, {"role": "user", "content": TEXT}],
        [{"role": "developer", "content": "Repeat."}, {"role": "user", "content": TEXT}],
        [{"role": "user", "content": [{"type": "text", "text": TEXT}]}],
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": TEXT},
        ],
    ],
    ids=["system", "developer", "parts", "turns"],
)
async def test_create_takes_messages(asdk: Sdk, messages: list[Any]) -> None:
    completion = await asdk.call(lambda c: c.chat.completions.create(model=MODEL, messages=messages))
    assert completion.choices[0].message.content == TEXT


async def test_create_takes_its_own_message_back(asdk: Sdk) -> None:
    first = await create(asdk, "First.")
    turns = [{"role": "user", "content": "First."}, first.choices[0].message, {"role": "user", "content": "Second."}]
    second = await asdk.call(lambda c: c.chat.completions.create(model=MODEL, messages=turns))
    assert second.choices[0].message.content == "Second."
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.total_tokens


async def test_a_stored_completion_is_a_response(asdk: Sdk, other: Sdk) -> None:
    """One log, two dialects: what one began the other reads and continues."""
    first = await create(asdk, "First.", store=True)
    response = await other.call(lambda c: c.responses.retrieve(first.id))
    assert response.output_text == "First."
    second = await other.call(lambda c: c.responses.create(model=MODEL, input="Second.", previous_response_id=first.id))
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    third = await create(asdk, "Third.", extra_body={"previous_response_id": second.id})
    assert third.choices[0].message.content == "Third."
    assert third.usage is not None
    assert third.usage.prompt_tokens > second.usage.total_tokens


@pytest.mark.parametrize("streams", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "gpt-none"}, openai.NotFoundError, "model_not_found"),
        ({"text": "a green submarine"}, openai.BadRequestError, "content_policy_violation"),
        ({"text": "word " * 20_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"temperature": 3}, openai.BadRequestError, None),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "unknown_parameter"),
        ({"n": 3, "text": "a green submarine"}, openai.BadRequestError, "content_policy_violation"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
            openai.BadRequestError,
            "unsupported_parameter",
        ),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_a_bad_call_raises_its_class(
    asdk: Sdk, fields: dict[str, Any], error: type[openai.APIStatusError], code: str | None, streams: bool
) -> None:
    with pytest.raises(error) as caught:
        await (streamed if streams else create)(asdk, **fields)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert code is None or caught.value.code == code


async def test_leaving_a_stream_frees_the_slots(sdk: Sdk, scene: Scene) -> None:
    async for chunk in sdk.each(lambda c: c.chat.completions.create(stream=True, **asked(LONG, n=2))):
        if chunk.choices and chunk.choices[0].delta.content:
            break
    await scene.until_idle()


async def test_calls_that_are_not_served_say_so(sdk: Sdk) -> None:
    completion = await create(sdk, store=True)
    for do in (
        lambda c: c.chat.completions.retrieve(completion.id),
        lambda c: c.chat.completions.update(completion.id, metadata={}),
        lambda c: c.chat.completions.delete(completion.id),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.call(do)
        assert caught.value.status_code in (404, 405)
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.all(lambda c: c.chat.completions.list())
    assert caught.value.status_code in (404, 405)
