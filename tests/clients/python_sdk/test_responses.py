"""Each call on `client.responses`, over HTTP: JSON and server-sent events, foreground and background."""

from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.clients.python_sdk.sdk import Sdk
from tests.clients.scene import LONG, MODEL, Scene

TEXT = "The log is the stream."
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def create(sdk: Sdk, prompt: Any = TEXT, **fields: Any) -> Response:
    response: Response = await sdk.call(lambda c: c.responses.create(model=MODEL, input=prompt, **fields))
    return response


async def resumed(sdk: Sdk, response_id: str, **query: Any) -> list[Any]:
    return await sdk.all(lambda c: c.responses.retrieve(response_id, stream=True, **query))


def said(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def test_create(sdk: Sdk) -> None:
    response = await create(sdk)
    assert (response.status, response.output_text, response.model) == ("completed", TEXT, MODEL)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.completed_at is not None
    assert response.completed_at >= response.created_at


async def test_create_streamed(sdk: Sdk) -> None:
    events = await sdk.all(lambda c: c.responses.create(model=MODEL, input=TEXT, stream=True))
    assert list(dict.fromkeys(event.type for event in events)) == ORDER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert said(events) == events[-1].response.output_text == TEXT


async def test_the_stream_helper(sdk: Sdk) -> None:
    events, response = await sdk.helped(lambda c: c.responses.stream(model=MODEL, input=TEXT), "get_final_response")
    assert list(dict.fromkeys(event.type for event in events)) == ORDER
    assert response.output_text == TEXT
    assert [event.snapshot for event in events if event.type == "response.output_text.delta"][-1] == TEXT


async def test_the_stream_helper_resumes(sdk: Sdk) -> None:
    begun = await create(sdk, background=True)
    events, response = await sdk.helped(lambda c: c.responses.stream(response_id=begun.id), "get_final_response")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert response.output_text == TEXT


@pytest.mark.parametrize(
    "fields",
    [
        {"instructions": "Repeat what I say."},
        {"metadata": {"team": "atlas", "ticket": "42"}},
        {"temperature": 0.5, "top_p": 0.25},
        {"max_output_tokens": 64},
        {"store": False},
        {"truncation": "auto"},
        {"truncation": "disabled"},
        {"user": "u-1"},
        {"safety_identifier": "s-1", "prompt_cache_key": "k-1"},
        {"top_logprobs": 0},
        {"tool_choice": "none", "parallel_tool_calls": False, "max_tool_calls": 3},
        {"text": {"format": {"type": "text"}}},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
    ],
    ids=lambda fields: "-".join(fields),
)
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
async def test_create_takes_and_echoes(asdk: Sdk, fields: dict[str, Any], streamed: bool) -> None:
    if streamed:
        events = await asdk.all(lambda c: c.responses.create(model=MODEL, input=TEXT, stream=True, **fields))
        responses = [event.response for event in events if hasattr(event, "response")]
    else:
        responses = [await create(asdk, **fields)]
    assert responses[-1].output_text == TEXT
    for response in responses:
        echoed = response.to_dict()
        for name, value in fields.items():
            assert _covers(echoed[name], value), f"{name}: {echoed[name]!r}"


def _covers(echoed: Any, asked: Any) -> bool:
    """What was asked is echoed, perhaps among more."""
    if isinstance(asked, dict):
        return all(_covers(echoed[name], value) for name, value in asked.items())
    return bool(echoed == asked)


@pytest.mark.parametrize(
    "items",
    [
        [{"role": "user", "content": TEXT}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
        [{"role": "developer", "content": "Repeat."}, {"role": "user", "content": TEXT}],
        [{"role": "system", "content": "Repeat."}, {"role": "user", "content": TEXT}],
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": TEXT},
        ],
    ],
    ids=["easy", "parts", "developer", "system", "turns"],
)
async def test_create_takes_input_items(asdk: Sdk, items: list[Any]) -> None:
    assert (await create(asdk, items)).output_text == TEXT


async def test_create_takes_several_text_parts(asdk: Sdk) -> None:
    parts = [{"type": "input_text", "text": part} for part in ("One.", "Two.")]
    response = await create(asdk, [{"role": "user", "content": parts}])
    assert response.output_text.startswith("One.")
    assert response.output_text.endswith("Two.")


async def test_create_takes_its_own_output_back(asdk: Sdk) -> None:
    first = await create(asdk, "First.")
    items = [{"role": "user", "content": "First."}, *first.output, {"role": "user", "content": "Second."}]
    second = await create(asdk, items)
    assert second.output_text == "Second."
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
async def test_create_continues_a_response(asdk: Sdk, other: Sdk, streamed: bool) -> None:
    first = await create(asdk, "First.")
    fields = {"model": MODEL, "input": "Second.", "previous_response_id": first.id}
    if streamed:
        second = (await other.all(lambda c: c.responses.create(stream=True, **fields)))[-1].response
    else:
        second = await other.call(lambda c: c.responses.create(**fields))
    assert (second.output_text, second.previous_response_id) == ("Second.", first.id)
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


async def test_create_stops_at_the_token_limit(sdk: Sdk) -> None:
    response = await create(sdk, LONG, max_output_tokens=5)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    events = await sdk.all(lambda c: c.responses.create(model=MODEL, input=LONG, max_output_tokens=5, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == response.output_text == said(events)


async def test_create_cuts_what_the_policy_forbids(sdk: Sdk) -> None:
    response = await create(sdk, "All is well today and here is a purple zeppelin for you, and more of it.")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "content_filter"
    assert "zeppelin" not in response.output_text


async def test_background_is_polled(sdk: Sdk) -> None:
    text = " ".join([TEXT] * 8)
    response = await create(sdk, text, background=True)
    assert response.status in ("queued", "in_progress")
    assert response.background
    response_id = response.id
    while response.status in ("queued", "in_progress"):  # the response's own deadline bounds this
        response = await sdk.call(lambda c: c.responses.retrieve(response_id))
    assert (response.status, response.output_text) == ("completed", text)


async def test_background_streamed_is_left_and_resumed(sdk: Sdk, other: Sdk) -> None:
    text = "one two three four five six seven eight nine ten " * 4
    seen: list[Any] = []
    async for event in sdk.each(lambda c: c.responses.create(model=MODEL, input=text, background=True, stream=True)):
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    last = seen[-1].sequence_number
    response_id = seen[0].response.id
    seen += await resumed(other, response_id, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert said(seen) == seen[-1].response.output_text == text.strip()


async def test_retrieve(sdk: Sdk, other: Sdk) -> None:
    created = await create(sdk, metadata={"team": "atlas"})
    for reader in (sdk, other):
        fetched = await reader.call(lambda c: c.responses.retrieve(created.id))
        assert fetched.to_dict() == created.to_dict()


async def test_retrieve_streamed(sdk: Sdk, other: Sdk) -> None:
    live = await sdk.all(lambda c: c.responses.create(model=MODEL, input=TEXT, stream=True))
    response_id = live[0].response.id
    again = await resumed(other, response_id)
    assert [event.to_dict() for event in again] == [event.to_dict() for event in live]
    for after in (0, 4, len(live) - 2):
        rest = await resumed(sdk, response_id, starting_after=after)
        assert [event.to_dict() for event in rest] == [event.to_dict() for event in live[after + 1 :]]
    assert await resumed(sdk, response_id, starting_after=len(live)) == []


async def test_cancel(sdk: Sdk, scene: Scene) -> None:
    begun = await create(sdk, LONG, background=True)
    ended = await sdk.call(lambda c: c.responses.cancel(begun.id))
    assert ended.status == "cancelled"
    again = await sdk.call(lambda c: c.responses.cancel(begun.id))
    assert again.to_dict() == ended.to_dict()
    assert LONG.startswith(ended.output_text)
    await scene.until_idle()


async def test_cancel_of_what_has_ended(sdk: Sdk) -> None:
    ended = await create(sdk)
    with pytest.raises(openai.BadRequestError):
        await sdk.call(lambda c: c.responses.cancel(ended.id))


async def test_leaving_a_foreground_stream_frees_the_slot(sdk: Sdk, scene: Scene) -> None:
    async for event in sdk.each(lambda c: c.responses.create(model=MODEL, input=LONG, stream=True)):
        if event.type == "response.output_text.delta":
            break
    await scene.until_idle()


async def test_parse_gives_text_as_it_is(sdk: Sdk) -> None:
    parsed = await sdk.call(lambda c: c.responses.parse(model=MODEL, input=TEXT))
    assert parsed.output_text == TEXT
    assert parsed.output_parsed is None
