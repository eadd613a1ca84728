"""`GET …/input_items` and `POST …/input_tokens`: what a request brought, and how long its prompt would be."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseInputMessageItem, ResponseOutputMessage

from services.gateway.api.input_tokens import parse_count
from services.gateway.errors import ApiError
from services.gateway.projections.input_items import input_items
from shared.ids import new_response_id
from shared.records import CountInput, InputCounted, Message, Rejected
from tests.unit.gateway.harness import MODEL, Mesh, gateway, only_accept
from tests.unit.gateway.logs import Log

SENT_BACK = {
    "id": "msg_back",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Paris.", "annotations": [], "logprobs": []}],
}
CONVERSATION = "conv_01a1fdc4690670018e8a2c8c65ddcda7"
INPUT: Any = [
    {"role": "developer", "content": "Be brief."},
    SENT_BACK,
    {"role": "user", "content": [{"type": "input_text", "text": "Why"}, {"type": "input_text", "text": "?"}]},
]


def test_items_are_the_requests_own_in_the_shapes_that_sdks_know() -> None:
    log = Log(new_response_id(1))
    given = [
        Message(role="system", parts=["a"]),
        Message(role="user", parts=["b", "c"], id="msg_mine"),
        Message(role="assistant", parts=["d"]),
    ]
    items = input_items(log.accepted(input=given, instructions="never an item", previous_response_id="resp_1"))
    assert [item["role"] for item in items] == ["system", "user", "assistant"]
    assert [[part["text"] for part in item["content"]] for item in items] == [["a"], ["b", "c"], ["d"]]
    for item in items[:2]:
        ResponseInputMessageItem.model_validate(item, strict=True)
    ResponseOutputMessage.model_validate(items[2], strict=True)


def test_ids_are_the_clients_or_follow_from_the_place() -> None:
    one, other = Log(new_response_id(1)), Log(new_response_id(1))
    same, named = Message(role="user", parts=["same"]), Message(role="user", parts=["same"], id="msg_mine")
    ids, again = ([item["id"] for item in input_items(one.accepted(input=[same, named, same]))] for _ in range(2))
    assert ids == again
    assert ids[1] == "msg_mine"
    assert len(set(ids)) == 3
    assert ids[0] not in [item["id"] for item in input_items(other.accepted(input=[same]))]


@pytest.fixture
async def client() -> Any:
    async with gateway(Mesh(), keys=True) as mesh, mesh.client() as sdk:
        yield sdk


async def test_the_sdk_turns_the_pages(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input=INPUT)
    newest = [item async for item in client.responses.input_items.list(response.id, limit=1)]
    oldest = [item async for item in client.responses.input_items.list(response.id, order="asc", limit=2)]
    assert [item.id for item in newest] == [item.id for item in oldest][::-1]
    assert oldest[1].id == "msg_back"
    assert oldest[1].to_dict() == SENT_BACK
    (only,) = (await client.responses.input_items.list(response.id, after=newest[1].id)).data
    assert only.id == newest[2].id


@pytest.mark.parametrize(
    "arguments",
    [{"limit": 0}, {"limit": 101}, {"after": "msg_x"}, {"order": "up"}, {"include": ["file_search_call.results"]}],
)
async def test_what_is_no_page_is_a_400(client: AsyncOpenAI, arguments: Any) -> None:
    response = await client.responses.create(model=MODEL, input="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.input_items.list(response.id, **arguments)._get_page()
    assert str(caught.value.param).startswith(next(iter(arguments)))


async def test_items_of_what_is_not_kept_are_not_found(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.input_items.list(response.id)._get_page()


async def test_a_response_that_runs_has_its_items_already() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        response = await client.responses.create(model=MODEL, input="Hi", background=True)
        assert len((await client.responses.input_items.list(response.id)).data) == 1


@pytest.mark.parametrize("include", [["message.output_text.logprobs"], []])
async def test_retrieve_takes_the_include_that_is_served(client: AsyncOpenAI, include: Any) -> None:
    response = await client.responses.create(model=MODEL, input="Hi")
    assert (await client.responses.retrieve(response.id, include=include)).id == response.id
    raw = await client.get(f"/responses/{response.id}?include=message.output_text.logprobs", cast_to=object)
    assert raw["id"] == response.id  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"include_obfuscation": True, "stream": True}, "include_obfuscation"),
    ],
)
async def test_retrieve_refuses_by_name_what_is_not_served(client: AsyncOpenAI, arguments: Any, param: str) -> None:
    response = await client.responses.create(model=MODEL, input="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.retrieve(response.id, **arguments)
    assert caught.value.param == param


async def test_what_is_not_stored_is_streamed_and_cancelled_by_its_id_and_nothing_else(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="Hi", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as sdk:
        stream = await sdk.responses.create(model=MODEL, input="Hi", store=False, stream=True)
        created: Any = await anext(aiter(stream))
        again = await sdk.responses.retrieve(created.response.id, stream=True)
        assert (await anext(aiter(again))).to_dict() == created.to_dict()
        await again.close()
        await stream.close()


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ({"input": "one two three"}, 3),
        ({"input": "one two", "instructions": "be brief", "model": MODEL}, 4),
        ({"instructions": "be brief"}, 2),
        ({"input": INPUT}, 4),
        ({"input": "word " * 200}, 200),
        ({"input": [{"role": "user", "content": "word " * 60}, {"role": "user", "content": "x"}]}, 61),
        (
            {
                "input": [{"role": "user", "content": "word " * 70}, {"role": "user", "content": "x y"}],
                "truncation": "auto",
            },
            2,
        ),
    ],
)
async def test_a_prompt_is_counted_as_a_response_would_be(client: AsyncOpenAI, arguments: Any, tokens: int) -> None:
    counted = await client.responses.input_tokens.count(**arguments)
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": tokens}


async def test_history_counts_what_goes_on_from_a_response() -> None:
    parent = new_response_id(2).text

    def on_query(query: CountInput) -> Any:
        assert (query.tenant, query.spec.previous_response_id) == ("local", parent)
        assert [message.text for message in query.spec.input] == ["And then?"]
        return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=77)

    async with gateway(Mesh(on_query=on_query)) as mesh, mesh.client() as client:
        for named in (parent, parent.replace("resp_", "chatcmpl-")):
            counted = await client.responses.input_tokens.count(input="And then?", previous_response_id=named)
            assert counted.input_tokens == 77
        assert mesh.requests == []


@pytest.mark.parametrize("given", [CONVERSATION, {"id": CONVERSATION}])
async def test_history_counts_what_goes_on_in_a_conversation(given: Any) -> None:
    def on_query(query: CountInput) -> Any:
        assert (query.spec.conversation, query.subject, query.spec.input) == (CONVERSATION, CONVERSATION, [])
        return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=5)

    async with gateway(Mesh(on_query=on_query)) as mesh, mesh.client() as client:
        assert (await client.responses.input_tokens.count(conversation=given)).input_tokens == 5


async def test_an_unknown_parent_is_named() -> None:
    def on_query(query: CountInput) -> Any:
        return Rejected(
            gateway="gateway-1",
            correlation_id=query.correlation_id,
            status=400,
            code="previous_response_not_found",
            message="Previous response with id 'resp_1' not found.",
            param="previous_response_id",
        )

    async with gateway(Mesh(on_query=on_query)) as mesh, mesh.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.input_tokens.count(input="Hi", previous_response_id="resp_1")
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_an_unknown_model_is_404(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.input_tokens.count(input="Hi", model="other")
    assert caught.value.code == "model_not_found"


async def test_what_would_be_too_long_even_shortened_is_refused_with_both_numbers(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="200 tokens exceeds the model's window of 64"):
        await client.responses.input_tokens.count(input="word " * 200, truncation="auto")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": "Hi", "tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"input": "Hi", "conversation": 5}, "invalid_type", "conversation"),
        (
            {"conversation": "conv_" + "0" * 32, "previous_response_id": "resp_1"},
            "mutually_exclusive_parameters",
            None,
        ),
        ({"input": "Hi", "personality": "friendly"}, "unsupported_parameter", "personality"),
        ({"input": "Hi", "reasoning": {"effort": "low"}}, "unsupported_parameter", "reasoning"),
        ({"input": "Hi", "temperature": 1}, "unknown_parameter", "temperature"),
        ({"input": "Hi", "text": {"format": {"type": "json_object"}}}, "unsupported_value", "text.format.type"),
    ],
)
def test_what_is_not_counted_is_named(body: dict[str, Any], code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse_count(body).spec("m")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
