"""The Responses API beyond making one: two gateways, two tenants, the official SDK, real processes."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from services.history.stores.sqlite.schema import Phase
from shared.records import Delete, Deleted
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import events_of, journal_of
from tests.support.mesh import Mesh

pytestmark = pytest.mark.any_broker  # what clients ask for; what the log does to a stream is tested elsewhere

KEYS = "sk-ours: {tenant: ours}\nsk-theirs: {tenant: theirs}\n"
COUNTS = {Service.GATEWAY: 2, Service.MODERATION: 1, Service.INFERENCE: 1, Service.HISTORY: 1}
ASK: dict[str, Any] = {"model": MODEL, "input": "The birds sing."}
RUN_ON: dict[str, Any] = {"model": MODEL, "input": "and on " * 400}


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Each answer repeats its prompt's last message, 80 tokens a second: RUN_ON runs for 10 s."""
    folder = tmp_path_factory.mktemp("responses")
    (folder / "keys.yaml").write_text(KEYS)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "80",
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
    }
    async with Mesh(broker, folder, env=env, counts=COUNTS) as running:
        yield running


@pytest.fixture
async def clients(mesh: Mesh) -> AsyncIterator[list[AsyncOpenAI]]:
    """One client of the same tenant per gateway."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(sdk(url)) for url in mesh.urls()]


def sdk(url: str, key: str = "sk-ours") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60, _strict_response_validation=True)


USES: dict[str, Callable[[AsyncOpenAI, str], Awaitable[Any]]] = {
    "retrieve": lambda client, response_id: client.responses.retrieve(response_id),
    "stream": lambda client, response_id: client.responses.retrieve(response_id, stream=True),
    "cancel": lambda client, response_id: client.responses.cancel(response_id),
    "items": lambda client, response_id: client.responses.input_items.list(response_id)._get_page(),
    "delete": lambda client, response_id: client.responses.delete(response_id),
}


async def assert_gone(client: AsyncOpenAI, response_id: str) -> None:
    """Nothing finds it, and nothing goes on from it."""
    for use in USES.values():
        with pytest.raises(openai.NotFoundError):
            await use(client, response_id)
    for going_on in (client.responses.create(previous_response_id=response_id, **ASK),
                     client.responses.input_tokens.count(input="x", previous_response_id=response_id)):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            await going_on
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def stored_row(mesh: Mesh, response_id: str) -> tuple[Any, ...] | None:
    """What the store's file holds of it: its phase, parent, beginning and end."""
    file: Path = mesh.folder / "data" / "history.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT phase, parent, accepted, terminal FROM responses WHERE id = ?", [response_id]
        ).fetchone()
    return None if found is None else tuple(found)


# -- deletion ----------------------------------------------------------------------------------------------------------


async def test_what_one_gateway_deletes_is_found_at_none_at_once(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    for number in range(6):
        here, there = clients[number % 2], clients[(number + 1) % 2]
        response = await here.responses.create(**ASK)
        child = await there.responses.create(previous_response_id=response.id, **ASK)
        await there.responses.delete(response.id)
        await assert_gone(here, response.id)
        await assert_gone(there, response.id)
        assert (await here.responses.retrieve(child.id)).output_text == ASK["input"]
        assert stored_row(mesh, response.id) == (Phase.DELETED, None, None, None)


async def test_a_gateway_that_starts_later_does_not_find_it_either(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    response = await clients[0].responses.create(**ASK)
    await clients[0].responses.delete(response.id)
    late = mesh.add(Service.GATEWAY)
    try:
        await mesh.wait_ready(service=Service.GATEWAY)
        async with sdk(f"http://127.0.0.1:{late.port}/v1") as client:
            await assert_gone(client, response.id)
    finally:
        await asyncio.to_thread(late.process.stop, 10.0)
        mesh.retire(late)


async def test_what_still_runs_is_cancelled_and_then_deleted(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    stream = await here.responses.create(stream=True, background=True, **RUN_ON)
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            break
    response_id = events[0].response.id
    await there.responses.delete(response_id)
    events += [event async for event in stream]
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")
    for client in clients:
        await assert_gone(client, response_id)
    assert [type(record) for record in await events_of(mesh, response_id)][-1] is Deleted
    assert len([record for record in await journal_of(mesh, response_id) if isinstance(record, Delete)]) == 1


async def test_another_tenants_response_cannot_be_deleted(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    response = await clients[0].responses.create(**ASK)
    async with sdk(mesh.url, "sk-theirs") as theirs:
        for use in USES.values():
            with pytest.raises(openai.NotFoundError):
                await use(theirs, response.id)
    assert not [record for record in await journal_of(mesh, response.id) if isinstance(record, Delete)]
    assert (await clients[1].responses.retrieve(response.id)).output_text == ASK["input"]


# -- store=false -------------------------------------------------------------------------------------------------------


async def test_what_is_not_stored_is_only_ever_streamed_or_cancelled(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    stream = await here.responses.create(stream=True, store=False, **RUN_ON)
    events: list[Any] = [await anext(aiter(stream))]
    response_id = events[0].response.id
    for name in ("retrieve", "items", "delete"):
        for client in clients:
            with pytest.raises(openai.NotFoundError):
                await USES[name](client, response_id)
    resumed = await there.responses.retrieve(response_id, stream=True, starting_after=0)
    following: list[Any] = [await anext(aiter(resumed)) for _ in range(5)]
    assert (await there.responses.cancel(response_id)).status == "cancelled"
    events += [event async for event in stream]
    following += [event async for event in resumed]
    assert [event.to_dict() for event in following] == [event.to_dict() for event in events[1:]]
    again = [event async for event in await there.responses.retrieve(response_id, stream=True)]
    assert [event.to_dict() for event in again] == [event.to_dict() for event in events]
    with pytest.raises(openai.BadRequestError) as caught:
        await there.responses.create(previous_response_id=response_id, **ASK)
    assert caught.value.code == "previous_response_not_found"
    # What is stored at all is stored in order: by now the recorder has passed the one before this one.
    later = await here.responses.create(**ASK)
    async with asyncio.timeout(10):
        while stored_row(mesh, later.id) is None:
            await asyncio.sleep(0.02)
    assert stored_row(mesh, response_id) is None


# -- one response in every dialect, over every transport ---------------------------------------------------------------


async def test_a_conversation_goes_on_over_any_transport_in_any_dialect(clients: list[AsyncOpenAI]) -> None:
    """JSON, then WebSocket, then a completion, then SSE, each from the one before and at the other gateway."""
    here, there = clients
    first = await here.responses.create(model=MODEL, input="one")
    async with there.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="two", previous_response_id=first.id)
        async for event in connection:
            if event.type == "response.completed":
                second = event.response
                break
    third = await here.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "three"}],
        store=True,
        extra_body={"previous_response_id": second.id},
    )
    fourth: Any = [
        event
        async for event in await there.responses.create(
            model=MODEL, input="four", previous_response_id=third.id, stream=True
        )
    ][-1].response
    assert (second.output_text, third.choices[0].message.content, fourth.output_text) == ("two", "three", "four")
    counted = await here.responses.input_tokens.count(
        input=[
            {"role": role, "content": said}
            for said in ("one", "two", "three", "four")
            for role in ("user", "assistant")
        ][:-1]  # type: ignore[arg-type]
    )
    assert fourth.usage.input_tokens == counted.input_tokens, "the prompt holds the whole conversation"
    # Followed over another than it was created over.
    followed = [event async for event in await here.responses.retrieve(third.id, stream=True)]
    assert followed[-1].response.output_text == "three"  # type: ignore[union-attr]
    assert fourth.previous_response_id == followed[-1].response.id  # type: ignore[union-attr]
    await here.responses.delete(third.id)
    await assert_gone(there, followed[-1].response.id)  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError, match="not found"):
        await there.responses.create(model=MODEL, input="five", previous_response_id=fourth.id)


# -- what was asked ----------------------------------------------------------------------------------------------------

ECHOED: dict[str, Any] = {
    "instructions": "Be brief.",
    "metadata": {"team": "atlas"},
    "temperature": 0.5,
    "top_p": 0.25,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "max_output_tokens": 5,
    "max_tool_calls": 2,
    "parallel_tool_calls": False,
    "tool_choice": "none",
    "top_logprobs": 1,
    "truncation": "auto",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "user": "u",
    "stop": ["THE END"],
    "seed": 7,
    "top_k": 9,
}


async def test_everything_asked_for_is_echoed_alike_by_every_gateway(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    extensions = {name: ECHOED[name] for name in ("stop", "seed", "top_k", "presence_penalty", "frequency_penalty")}
    known = {name: value for name, value in ECHOED.items() if name not in extensions}
    response = await here.responses.create(text={"verbosity": "low"}, extra_body=extensions, **ASK, **known)
    echoed = response.to_dict()
    assert {name: echoed[name] for name in ECHOED} == ECHOED
    assert echoed["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert (await there.responses.retrieve(response.id)).to_dict() == echoed


async def test_log_probabilities_are_there_where_they_were_asked_for(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    asked: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, **ASK}
    events: list[Any] = [event async for event in await here.responses.create(stream=True, **asked)]
    told = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert "".join(entry.token for entry in told).startswith(ASK["input"])  # the end of the turn is a token too
    (message,) = (await there.responses.retrieve(events[0].response.id)).output
    (part,) = message.content  # type: ignore[union-attr]
    assert [entry.token for entry in part.logprobs] == [entry.token for entry in told]  # type: ignore[union-attr]
    plain = await here.responses.create(**ASK)
    assert plain.output[0].content[0].logprobs == []  # type: ignore[union-attr]


async def test_input_items_are_the_requests_own_at_every_gateway(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    first = await here.responses.create(**ASK)
    given: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "And then?"}]
    second = await here.responses.create(
        model=MODEL, input=[*given, *(item.to_dict() for item in first.output)], previous_response_id=first.id
    )
    pages = [
        [item async for item in client.responses.input_items.list(second.id, limit=1, order="asc")]
        for client in clients
    ]
    assert [item.to_dict() for item in pages[0]] == [item.to_dict() for item in pages[1]]
    assert [item.role for item in pages[0]] == ["developer", "user", "assistant"]  # type: ignore[union-attr]
    assert pages[0][2].to_dict() == first.output[0].to_dict()
    newest = await there.responses.input_items.list(second.id)
    assert [item.id for item in newest.data] == [item.id for item in pages[0]][::-1]


async def test_tokens_are_counted_as_a_response_counts_them(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    first = await here.responses.create(instructions="Be brief.", **ASK)
    assert first.usage is not None
    counted = await there.responses.input_tokens.count(instructions="Be brief.", **ASK)
    assert counted.input_tokens == first.usage.input_tokens
    then: dict[str, Any] = {"model": MODEL, "input": "And then?", "previous_response_id": first.id}
    for own in ({}, {"instructions": "Be very, very brief."}):
        second = await here.responses.create(**then, **own)
        assert second.usage is not None
        assert second.instructions == own.get("instructions"), "those of the turn before are not carried over"
        assert (await there.responses.input_tokens.count(**then, **own)).input_tokens == second.usage.input_tokens
        assert second.usage.input_tokens > counted.input_tokens


# -- more than the window ----------------------------------------------------------------------------------------------


async def test_a_conversation_beyond_the_window_is_refused_with_both_numbers_or_shortened(
    clients: list[AsyncOpenAI],
) -> None:
    here, there = clients
    short: dict[str, Any] = {"model": MODEL, "max_output_tokens": 1}
    first = await here.responses.create(input="word " * 6000, **short)
    then: dict[str, Any] = {"input": "more " * 4000, "previous_response_id": first.id, **short}
    with pytest.raises(openai.BadRequestError, match=r"10,0\d\d tokens exceeds the model's window of 8,192") as caught:
        await there.responses.create(**then)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    shortened = await there.responses.create(truncation="auto", **then)
    assert shortened.usage is not None
    assert 4000 < shortened.usage.input_tokens < 4100
    with pytest.raises(openai.BadRequestError, match=r"9,0\d\d tokens exceeds the model's window of 8,192"):
        await there.responses.create(input="word " * 9000, truncation="auto", **short)
    # To count is to learn by how much it is too long.
    counted = await here.responses.input_tokens.count(input=then["input"], previous_response_id=first.id)
    assert counted.input_tokens > 10_000
