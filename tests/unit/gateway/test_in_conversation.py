"""Responses that go on in a conversation: history puts them behind what was said there, whoever asks and how."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from services.gateway.ledger import Limits, RateLimits
from shared.records import (
    ContextRequested,
    CountInput,
    Deleted,
    GetItem,
    InputCounted,
    Item,
    ItemsFound,
    Message,
    Rejected,
    Requested,
)
from shared.topics import CONTEXT
from tests.unit.gateway.harness import MODEL, Mesh, gateway, log_of, say
from tests.unit.gateway.keeper import Keeper
from tests.unit.gateway.test_realtime import connected

CONVERSATION = "conv_01a1fdc4690670018e8a2c8c65ddcda7"
ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello", "conversation": CONVERSATION}

NEXT: Any = {"role": "user", "content": "Sure?"}


def introduced(mesh: Mesh) -> ContextRequested:
    """The one request, which went to history and to nobody else."""
    (record,) = mesh.writer.of(ContextRequested)
    assert mesh.writer.of(Requested) == []
    assert [topic for topic, other in mesh.writer.appended if other is record] == [CONTEXT]
    return record


# -- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [CONVERSATION, {"id": CONVERSATION}])
async def test_history_gets_the_request_and_the_response_names_the_conversation(given: Any) -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        response = await client.responses.create(**{**ASK, "conversation": given})
        assert response.conversation is not None and response.conversation.to_dict() == {"id": CONVERSATION}
        assert (response.previous_response_id, response.output_text) == (None, "Hello world")
        record = introduced(mesh)
        assert (record.subject, record.base, record.request.context) == (CONVERSATION, None, [])
        assert record.request.spec.conversation == record.request.affinity_key == CONVERSATION
        assert (await client.responses.retrieve(response.id)).conversation == response.conversation


async def test_a_stream_names_it_from_the_first_event_on() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        stream = await client.responses.create(**ASK, stream=True)
        named = [event.response.conversation async for event in stream if hasattr(event, "response")]
        assert [found and found.id for found in named] == [CONVERSATION] * 3
        introduced(mesh)


async def test_a_lane_remembers_nothing_of_it() -> None:
    """What a conversation holds is history's to tell, with `store` false too."""
    async with gateway(Mesh()) as mesh, connected(mesh) as ws:
        event = await ws.ask(conversation=CONVERSATION, store=False)
        assert event["response"]["conversation"] == {"id": CONVERSATION}
        await ws.ask(previous_response_id=event["response"]["id"])
        first, second = mesh.writer.of(ContextRequested)
        assert (first.base, second.base) == (None, event["response"]["id"])
        assert second.request.context == []


async def test_what_history_refuses_reaches_the_lane_that_asked() -> None:
    def script(mesh: Mesh, request: Requested) -> list[Any]:
        locked = Rejected(
            gateway="gateway-1",
            correlation_id=request.response_id,
            status=400,
            code="conversation_locked",
            message="busy",
            param="conversation",
        )
        mesh.replies.deliver(locked)
        return []

    async with gateway(Mesh(script)) as mesh, connected(mesh) as ws:
        event = await ws.ask(conversation=CONVERSATION, stream_id="a")
        assert (event["type"], event["status"], event["stream_id"]) == ("error", 400, "a")
        assert (event["error"]["code"], event["error"]["param"]) == ("conversation_locked", "conversation")
        await ws.ws.send(json.dumps({"type": "response.create", **ASK, "conversation": "conv_1", "stream_id": "a"}))
        assert (await ws.next())["error"]["code"] == "conversation_not_found"


async def test_completions_have_no_conversation() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'conversation'"):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], extra_body={"conversation": CONVERSATION}
            )
        assert mesh.requests == []


async def test_what_was_said_before_counts_towards_the_limit() -> None:
    def on_query(query: CountInput) -> Any:
        assert query.spec.conversation == CONVERSATION
        return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=40)

    limits = RateLimits({"default": Limits(None, 39)})
    async with gateway(Mesh(on_query=on_query), limits=limits, keys=True) as mesh, mesh.client() as client:
        with pytest.raises(openai.RateLimitError, match="Requested 41"):
            await client.responses.create(**ASK, max_output_tokens=1)
        assert mesh.requests == []


async def test_a_repeated_request_is_generated_once() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        key = {"Idempotency-Key": "k"}
        first = await client.responses.create(**ASK, extra_headers=key)
        assert (await client.responses.create(**ASK, extra_headers=key)).id == first.id
        introduced(mesh)


# -- items by reference ----------------------------------------------------------------------------------------------


def remembering(*items: Item) -> Any:
    """A history in which the conversation has these items."""

    def on_query(query: Any) -> Any:
        found = [item for item in items if isinstance(query, GetItem) and item.id == query.item_id]
        if isinstance(query, CountInput):
            return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=1)
        if found:
            return ItemsFound(gateway="gateway-1", correlation_id=query.correlation_id, items=found)
        return Rejected(
            gateway="gateway-1",
            correlation_id=query.correlation_id,
            status=404,
            code="item_not_found",
            message="no",
        )

    return on_query


QUESTION = Item(id="msg_" + "a" * 32, role="user", parts=["Who", "?"])
ANSWER = Item(id="msg_" + "b" * 32, role="assistant", parts=["Me."])


async def test_items_of_the_conversation_can_be_named() -> None:
    references: Any = [{"type": "item_reference", "id": item.id} for item in (QUESTION, ANSWER)]
    async with gateway(Mesh(on_query=remembering(QUESTION, ANSWER)), keys=True) as mesh, mesh.client() as client:
        await client.responses.create(**{**ASK, "input": [*references, NEXT]})
        said = [*(item.message for item in (QUESTION, ANSWER)), Message(role="user", parts=["Sure?"])]
        assert introduced(mesh).request.spec.input == said
        await client.responses.input_tokens.count(input=references, conversation=CONVERSATION)
        assert mesh.writer.of(CountInput)[-1].spec.input == said[:2]
        with pytest.raises(openai.NotFoundError, match=QUESTION.id) as caught:
            await client.responses.create(model=MODEL, input=[*references, NEXT])
        assert (caught.value.code, caught.value.param) == ("item_not_found", "input")


async def test_an_answer_of_elsewhere_can_be_named_too() -> None:
    async with gateway(Mesh(on_query=remembering()), keys=True) as mesh, mesh.client() as client:
        first = await client.responses.create(model=MODEL, input="Hi")
        named: Any = [{"type": "item_reference", "id": first.output[0].id}]
        await client.responses.create(**{**ASK, "input": [*named, NEXT]})
        (record,) = mesh.writer.of(ContextRequested)
        assert [message.text for message in record.request.spec.input] == ["Hello world", "Sure?"]
        named[0]["id"] = QUESTION.id
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(**{**ASK, "input": [*named, NEXT]})


async def test_items_are_added_by_reference() -> None:
    keeper = Keeper()
    async with gateway(Mesh(say("Hello"), on_query=keeper), keys=True) as mesh, mesh.client() as client:
        answer: Any = {
            "type": "item_reference",
            "id": (await client.responses.create(model=MODEL, input="Hi")).output[0].id,
        }
        conversation = await client.conversations.create(items=[answer])
        (item,) = (await client.conversations.items.list(conversation.id)).data
        assert item.id != answer["id"]
        again: Any = {"type": "item_reference", "id": item.id}
        await client.conversations.items.create(conversation.id, items=[again])
        said = [(kept.role, kept.parts) for kept in keeper.kept[conversation.id].items.values()]
        assert said == [("assistant", ["Hello"])] * 2


# -- what is gone with it --------------------------------------------------------------------------------------------


async def test_what_went_with_its_conversation_is_found_at_no_gateway() -> None:
    """History has the owner say `deleted`: that it was not asked for here makes no difference."""
    async with gateway(Mesh(), keys=True) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        request = introduced(mesh).request
        mesh.publish([Deleted(response_id=response.id, tenant=log_of(request).tenant)])
        for use in (_retrieve, _resume, _cancel, _items, _name):
            with pytest.raises(openai.NotFoundError):
                await use(client, response.id)


async def _retrieve(client: AsyncOpenAI, response_id: str) -> None:
    await client.responses.retrieve(response_id)


async def _resume(client: AsyncOpenAI, response_id: str) -> None:
    await client.responses.retrieve(response_id, stream=True, starting_after=1)


async def _cancel(client: AsyncOpenAI, response_id: str) -> None:
    await client.responses.cancel(response_id)


async def _items(client: AsyncOpenAI, response_id: str) -> None:
    await client.responses.input_items.list(response_id)._get_page()


async def _name(client: AsyncOpenAI, response_id: str) -> None:
    named: Any = [{"type": "item_reference", "id": response_id.replace("resp_", "msg_")}]
    await client.responses.create(model=MODEL, input=[*named, NEXT])
