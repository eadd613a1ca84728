"""`item_reference` in an input, as front ends send our own answers back: the item stands in its place, or 404."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from services.gateway.api.item_references import MAX_REFERENCES
from shared.ids import new_response_id
from shared.records import Failed, Message, Rejected
from tests.unit.gateway.harness import MODEL, Mesh, gateway, only_accept, say

NEXT: Any = {"role": "user", "content": "And then?"}


def reference(item_id: str) -> Any:
    return {"type": "item_reference", "id": item_id}


async def ask(client: AsyncOpenAI, *items: Any, **fields: Any) -> Any:
    return await client.responses.create(model=MODEL, input=list(items), **fields)


async def test_the_answer_stands_in_its_place() -> None:
    async with gateway(Mesh(say("Hello")), keys=True) as mesh, mesh.client() as client:
        first = await ask(client, {"role": "user", "content": "Hi"})
        item_id = first.output[0].id
        await ask(client, {"role": "user", "content": "Hi"}, reference(item_id), NEXT)
        assert mesh.requests[-1].spec.input == [
            Message(role="user", parts=["Hi"]),
            Message(role="assistant", parts=["Hello"], id=item_id),
            Message(role="user", parts=["And then?"]),
        ]


async def test_over_a_websocket_and_in_a_count_too() -> None:
    async with gateway(Mesh(say("Hello", " world")), keys=True) as mesh, mesh.client() as client:
        first = await ask(client, NEXT)
        items = [reference(first.output[0].id), NEXT]
        async with client.responses.connect() as connection:
            await connection.response.create(model=MODEL, input=items)
            async for event in connection:
                if event.type in ("response.completed", "error"):
                    break
        assert mesh.requests[-1].spec.input[0].parts == ["Hello world"]
        counted = await client.responses.input_tokens.count(model=MODEL, input=items)
        alone = await client.responses.input_tokens.count(model=MODEL, input=[NEXT])
        assert counted.input_tokens == alone.input_tokens + 2


@pytest.mark.parametrize(
    "case", ["unknown", "malformed", "a response's id", "another tenant's", "not stored", "running", "failed"]
)
async def test_what_is_no_answer_of_the_callers_is_not_found(case: str) -> None:
    script = {"running": only_accept, "failed": say("Hel", kind=Failed, code="server_error", message="no")}
    mesh = Mesh(script.get(case, say("Hello")), on_query=nothing_stored)
    async with gateway(mesh, keys=True), mesh.client() as client:
        item_id = "msg_" + await _made(mesh, client, case)
        if case == "a response's id":
            item_id = item_id.replace("msg_", "resp_")
        async with mesh.client("sk-b" if case == "another tenant's" else "sk-a") as asking:
            with pytest.raises(openai.NotFoundError, match=f"Item with id '{item_id}' not found") as caught:
                await ask(asking, reference(item_id), NEXT)
        assert caught.value.param == "input"


def nothing_stored(query: Any) -> Rejected:
    return Rejected(
        gateway="gateway-1", correlation_id=query.correlation_id, status=404, code="no", message="no",
        error_type="invalid_request_error",
    )  # fmt: skip


async def _made(mesh: Mesh, client: AsyncOpenAI, case: str) -> str:
    """The digits of a response's id."""
    if case == "malformed":
        return "1"
    if case == "unknown":
        return new_response_id(1).text.removeprefix("resp_")
    asked = client.responses.create(model=MODEL, input="Hi", store=case != "not stored", background=case == "running")
    if case == "failed":
        with pytest.raises(openai.InternalServerError):
            await asked
    else:
        await asked
    return mesh.requests[-1].response_id.removeprefix("resp_")


async def test_too_many_are_refused_with_both_numbers() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        items = [reference(f"msg_{n}") for n in range(MAX_REFERENCES + 1)]
        with pytest.raises(openai.BadRequestError, match=f"{len(items)} items .* at most {MAX_REFERENCES}"):
            await ask(client, *items, NEXT)


async def test_the_same_twice_is_refused() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        item_id = (await ask(client, NEXT)).output[0].id
        with pytest.raises(openai.BadRequestError, match="Duplicate item"):
            await ask(client, reference(item_id), reference(item_id), NEXT)


async def test_an_input_may_be_nothing_but_references() -> None:
    async with gateway(Mesh(say("Hello")), keys=True) as mesh, mesh.client() as client:
        item_id = (await ask(client, NEXT)).output[0].id
        await ask(client, reference(item_id))
        assert [message.text for message in mesh.requests[-1].spec.input] == ["Hello"]
