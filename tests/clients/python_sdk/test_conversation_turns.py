"""`conversation` in `client.responses.create`, over every transport: what is appended, locked, continued, forgotten."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.clients.python_sdk.conversing import created, listed, nothing_finds, texts_of, until_forgotten, user
from tests.clients.python_sdk.sdk import Sdk, client, until_end
from tests.clients.scene import LONG, MODEL, Line, Scene

WAIT_S = 2.0
"""A request waits so long for its conversation: the scene's grace and a second."""
NOBODYS_TURN = "resp_019c0f3a7b1070018a5f3c2e1d4b6a98"


def asked(text: str, conversation: Any, **fields: Any) -> Callable[[Any], Any]:
    return lambda c: c.responses.create(model=MODEL, input=text, conversation=conversation, **fields)


async def over_json(sdk: Sdk, text: str, conversation: Any) -> Any:
    return await sdk.call(asked(text, conversation))


async def over_sse(sdk: Sdk, text: str, conversation: Any) -> Any:
    events = await sdk.all(asked(text, conversation, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert all(e.response.conversation.id == _id(conversation) for e in events if hasattr(e, "response"))
    return events[-1].response


async def over_websocket(sdk: Sdk, text: str, conversation: Any) -> Any:
    async with sdk.aclient.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=text, conversation=conversation)
        return (await until_end(connection))[-1].response


async def in_the_background(sdk: Sdk, text: str, conversation: Any) -> Any:
    return await until_ended(sdk, await sdk.call(asked(text, conversation, background=True)))


async def until_ended(sdk: Sdk, response: Any) -> Any:
    response_id = response.id
    async with asyncio.timeout(30):
        while response.status in ("queued", "in_progress"):
            response = await sdk.call(lambda c: c.responses.retrieve(response_id))
    return response


def _id(conversation: Any) -> str:
    return str(conversation if isinstance(conversation, str) else conversation["id"])


Transport = Callable[[Sdk, str, Any], Awaitable[Any]]
TRANSPORTS: list[Transport] = [over_json, over_sse, over_websocket, in_the_background]


@asynccontextmanager
async def running(sdk: Sdk, conversation_id: str) -> AsyncIterator[None]:
    """A response that holds the conversation's lock inside the block, and is cancelled behind it."""
    begun = await sdk.call(asked(LONG, conversation_id, background=True))
    try:
        yield
    finally:
        await sdk.call(lambda c: c.responses.cancel(begun.id))


# -- turns -------------------------------------------------------------------------------------------------------------


async def test_turns_over_every_transport_are_appended_to_one_conversation(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk, "Before.")
    used: list[int] = []
    for number, transport in enumerate(TRANSPORTS):
        reference: Any = made.id if number % 2 else {"id": made.id}
        response = await transport((asdk, other)[number % 2], f"Turn {number}.", reference)
        assert (response.status, response.output_text) == ("completed", f"Turn {number}.")
        assert (response.conversation.id, response.previous_response_id) == (made.id, None)
        used.append(response.usage.input_tokens)
        [*_, answer] = items = await listed(other, made.id)
        assert texts_of(items) == ["Before.", *(f"Turn {n}." for n in range(number + 1) for _ in range(2))]
        assert (answer.id, answer.role, answer.status) == (response.output[0].id, "assistant", "completed")
    assert used == sorted(set(used)), "each turn is reminded of those before"
    assert [item.role for item in items] == ["user", *["user", "assistant"] * len(TRANSPORTS)]


async def test_a_turn_by_the_sync_client(scene: Scene, asdk: Sdk) -> None:
    sdk = client("sync", scene.url)
    made = await created(sdk)
    assert (await over_json(sdk, "One.", made.id)).output_text == "One."
    assert (await over_sse(sdk, "Two.", made.id)).output_text == "Two."
    assert texts_of(await listed(asdk, made.id)) == ["One.", "One.", "Two.", "Two."]
    await sdk.close()


async def test_a_turn_is_counted_before_it_is_asked(asdk: Sdk) -> None:
    made = await created(asdk, "Before.", "And before.")
    for fields in ({}, {"instructions": "Be brief."}):
        do = lambda c, f=fields: c.responses.input_tokens.count(model=MODEL, input="Now.", conversation=made.id, **f)  # noqa: E731
        counted = await asdk.call(do)
        response = await asdk.call(asked("Now.", made.id, **fields))
        assert counted.input_tokens == response.usage.input_tokens


async def test_a_turn_that_is_not_stored_is_in_the_conversation_and_nowhere_else(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk)
    response = await asdk.call(asked("One.", made.id, store=False))
    assert texts_of(await listed(other, made.id)) == ["One.", "One."]
    with pytest.raises(openai.NotFoundError):
        await other.call(lambda c: c.responses.retrieve(response.id))


async def test_a_stream_that_breaks_goes_on_elsewhere_and_is_appended_once(scene: Scene, asdk: Sdk) -> None:
    made = await created(asdk)
    text = " ".join(f"word{n}" for n in range(90))
    seen: list[Any] = []
    async with Line([scene.url]) as line:
        sdk = client("async", line.url)
        with pytest.raises((openai.APIConnectionError, openai.APIError)):
            async for event in sdk.each(asked(text, made.id, stream=True)):
                seen.append(event)
                if event.type == "response.output_text.delta":
                    line.cut()
        await sdk.close()
    heir = client("async", scene.other_url)
    query = {"stream": True, "starting_after": seen[-1].sequence_number}
    seen += await heir.all(lambda c: c.responses.retrieve(seen[0].response.id, **query))
    await heir.close()
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].response.output_text == text
    assert texts_of(await listed(asdk, made.id)) == [text, text]


async def test_instructions_belong_to_their_turn(asdk: Sdk) -> None:
    made = await created(asdk)
    await asdk.call(asked("One.", made.id, instructions="Be very, very brief."))
    assert [item.role for item in await listed(asdk, made.id)] == ["user", "assistant"]


async def test_refused_input_leaves_nothing_and_holds_nothing(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await asdk.call(asked("a green submarine", made.id, stream=stream))
        assert caught.value.code == "content_policy_violation"
        await other.call(asked("Fine.", made.id))  # refused, were the conversation still held
    assert texts_of(await listed(asdk, made.id)) == ["Fine."] * 4


# -- the lock ----------------------------------------------------------------------------------------------------------


async def test_two_at_once_come_one_after_the_other(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk)
    texts = [f"Caller {n}." for n in range(4)]
    answers = await asyncio.gather(*((asdk, other)[n % 2].call(asked(text, made.id)) for n, text in enumerate(texts)))
    assert [answer.output_text for answer in answers] == texts
    said = texts_of(await listed(asdk, made.id))
    assert said[::2] == said[1::2], "each answer stands behind its question"
    assert sorted(said[::2]) == texts
    used = sorted(answer.usage.input_tokens for answer in answers)
    assert used == sorted(set(used)), "each was reminded of those before it"


async def test_a_busy_conversation_is_waited_for_then_refused(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk)
    async with running(asdk, made.id):
        started_s = time.monotonic()
        await asyncio.gather(
            locked_out(other, asked("Me too.", made.id)),
            locked_out(other, asked("Me too.", made.id, stream=True)),
            locked_out(other, lambda c: c.conversations.items.create(made.id, items=[user("Me too.")])),
            locked_out_of_a_socket(other, made.id),
        )
        assert time.monotonic() - started_s > WAIT_S
        await asdk.call(lambda c: c.conversations.update(made.id, metadata={"topic": "tides"}))
        assert await listed(asdk, made.id) == [], "what runs is not there yet"
    assert (await other.call(asked("Now.", made.id))).output_text == "Now."
    question, answer, *rest = await listed(asdk, made.id)
    assert (texts_of([question]), question.status) == ([LONG], "completed")
    assert LONG.startswith(*texts_of([answer]))
    assert (answer.role, answer.status) == ("assistant", "incomplete")
    assert texts_of(rest) == ["Now.", "Now."]


async def locked_out(sdk: Sdk, do: Callable[[Any], Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.call(do)
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")


async def locked_out_of_a_socket(sdk: Sdk, conversation_id: str) -> None:
    async with sdk.aclient.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="Me too.", conversation=conversation_id)
        [error] = await until_end(connection)
    assert (error.status, error.error.code, error.error.param) == (400, "conversation_locked", "conversation")


async def test_who_leaves_frees_the_conversation(asdk: Sdk, other: Sdk) -> None:
    """In the foreground, leaving is the cancel: the lock ends with it, a moment after the grace."""
    made = await created(asdk)
    async for event in asdk.each(asked(LONG, made.id, stream=True)):
        if event.type == "response.output_text.delta":
            break
    assert (await other.call(asked("Next.", made.id))).output_text == "Next."
    _, cut_short, *rest = await listed(asdk, made.id)
    assert cut_short.status == "incomplete"
    assert texts_of(rest) == ["Next.", "Next."]


# -- what excludes what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_and_a_parent_exclude_each_other(asdk: Sdk, stream: bool) -> None:
    made = await created(asdk)
    with pytest.raises(openai.BadRequestError) as caught:
        await asdk.call(asked("x", made.id, previous_response_id=NOBODYS_TURN, stream=stream))
    assert caught.value.code == "mutually_exclusive_parameters"
    assert (await asdk.call(asked("Free.", made.id))).output_text == "Free.", "nothing holds it"


@pytest.mark.parametrize("conversation", [7, [], {}, {"id": 7}, {"name": "x"}, ""], ids=str)
async def test_what_names_no_conversation(asdk: Sdk, conversation: Any) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        await asdk.call(asked("x", conversation))
    assert "conversation" in f"{caught.value.param} {caught.value.message}"


async def test_no_conversation_is_none(asdk: Sdk) -> None:
    assert (await asdk.call(asked("x", None))).conversation is None


# -- forgetting --------------------------------------------------------------------------------------------------------


async def test_a_deleted_response_is_gone_from_its_conversation(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk, "Before.")
    first = await asdk.call(asked("One.", made.id))
    await other.call(asked("Two.", made.id))
    await other.call(lambda c: c.responses.delete(first.id))
    for reader in (asdk, other):
        assert texts_of(await listed(reader, made.id)) == ["Before.", "Two.", "Two."]
        with pytest.raises(openai.NotFoundError):
            await reader.call(lambda c: c.responses.retrieve(first.id))


async def test_a_deleted_item_takes_what_else_is_kept_of_its_response_but_not_its_other_items(
    asdk: Sdk, other: Sdk
) -> None:
    made = await created(asdk)
    first = await asdk.call(asked("One.", made.id))
    question, _ = await listed(asdk, made.id)
    await asdk.call(lambda c: c.conversations.items.delete(question.id, conversation_id=made.id))
    await until_forgotten(asdk, first.id)
    for reader in (asdk, other):
        with pytest.raises(openai.NotFoundError):
            await reader.call(lambda c: c.responses.retrieve(first.id))
        with pytest.raises(openai.NotFoundError):
            await reader.all(lambda c: c.responses.retrieve(first.id, stream=True))
        assert [(i.role, *texts_of([i])) for i in await listed(reader, made.id)] == [("assistant", "One.")]
    await asdk.call(asked("Two.", made.id))  # by then the recorder has seen `deleted`
    assert texts_of(await listed(other, made.id)) == ["One.", "Two.", "Two."]


async def test_a_deleted_conversation_takes_its_responses_along(asdk: Sdk, other: Sdk) -> None:
    made, bystander = await created(asdk), await created(asdk)
    responses = [await asdk.call(asked(f"{n}.", made.id)) for n in range(3)]
    kept = await asdk.call(asked("Kept.", bystander.id))
    [item, *_] = await listed(asdk, made.id)
    await other.call(lambda c: c.conversations.delete(made.id))
    for response in responses:
        await until_forgotten(other, response.id)
    for reader in (asdk, other):
        await nothing_finds(reader, made.id, item.id)
        for response in responses:
            with pytest.raises(openai.NotFoundError):
                await reader.call(lambda c, r=response: c.responses.retrieve(r.id))
            with pytest.raises(openai.NotFoundError):
                await reader.all(lambda c, r=response: c.responses.retrieve(r.id, stream=True))
            with pytest.raises(openai.BadRequestError):
                await reader.call(
                    lambda c, r=response: c.responses.create(model=MODEL, input="x", previous_response_id=r.id)
                )
    assert (await other.call(lambda c: c.responses.retrieve(kept.id))).output_text == "Kept."


async def test_a_conversation_deleted_under_a_running_response_lets_its_reader_finish(asdk: Sdk, other: Sdk) -> None:
    made = await created(asdk)
    text = " ".join(f"word{n}" for n in range(60))
    events: list[Any] = []
    async for event in asdk.each(asked(text, made.id, stream=True)):
        if event.type == "response.output_text.delta" and not any(e.type == event.type for e in events):
            await other.call(lambda c: c.conversations.delete(made.id))
        events.append(event)
    assert events[-1].response.output_text == text
    await nothing_finds(other, made.id)
    await until_forgotten(other, events[0].response.id)
