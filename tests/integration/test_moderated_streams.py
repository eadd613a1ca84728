"""Refused prompts and cut outputs, over every transport: what was cut never stands in the public log."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from shared.records import Tokens
from tests.integration.conftest import MODEL, SCRIPT
from tests.support.logs import events_of, journal_of
from tests.support.mesh import Mesh
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE

CLEAN = SCRIPT[: SCRIPT.index(CUT_PHRASE)]
ASK: dict[str, Any] = {"model": MODEL, "input": "Tell me about the weather."}


async def stream_of(client: AsyncOpenAI, transport: str, **request: Any) -> list[Any]:
    if transport == "sse":
        return [event async for event in await client.responses.create(stream=True, **request)]
    events = []
    async with client.responses.connect() as connection:
        await connection.response.create(**request)
        async for event in connection:
            events.append(event)
            if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
                return events
    raise AssertionError("the connection ended without a terminal event")


def streamed_text(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_violating_stream_is_cut_before_the_phrase(
    scripted_client: AsyncOpenAI, scripted_mesh: Mesh, transport: str
) -> None:
    events = await stream_of(scripted_client, transport, **ASK)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "content_filter"
    assert streamed_text(events) == last.response.output_text == CLEAN
    await assert_never_public(scripted_mesh, last.response.id)


async def test_a_violating_answer_is_cut_in_json_too(scripted_client: AsyncOpenAI, scripted_mesh: Mesh) -> None:
    response = await scripted_client.responses.create(**ASK)
    assert (response.status, response.output_text) == ("incomplete", CLEAN)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "content_filter"
    await assert_never_public(scripted_mesh, response.id)


async def assert_never_public(mesh: Mesh, response_id: str) -> None:
    said = "".join(p for r in await journal_of(mesh, response_id) if isinstance(r, Tokens) for p in r.pieces)
    assert "purple" in said, "the engine never said the phrase: the test shows nothing"
    for event in await events_of(mesh, response_id):
        assert "purple" not in getattr(event, "text", "")
        assert "Nobody" not in getattr(event, "text", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_prompt_is_a_400_before_any_stream(scripted_client: AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await scripted_client.responses.create(model=MODEL, input=f"Show me a {REFUSE_PHRASE}.", stream=stream)
    assert caught.value.code == "content_policy_violation"
    assert REFUSE_PHRASE not in str(caught.value)


async def test_a_refused_prompt_is_an_error_event_on_the_websocket_and_the_connection_goes_on(
    scripted_client: AsyncOpenAI,
) -> None:
    async with scripted_client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=f"Show me a {REFUSE_PHRASE}.")
        event: Any = await connection.recv()
        assert (event.type, event.status, event.error.code) == ("error", 400, "content_policy_violation")
        await connection.response.create(**ASK)
        created = await connection.recv()
        assert created.type == "response.created"
