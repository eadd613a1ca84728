"""The WebSocket against real processes, by the official SDK and by clients that connect as browsers do."""

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from openai import AsyncOpenAI
from openai.types.responses import ResponseSteerFailedEvent
from openai.types.responses.responses_server_event import ResponseWsError

from deploy.brokers import Broker
from shared.records import Requested
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import journal_of
from tests.support.mesh import Mesh

pytestmark = pytest.mark.any_broker  # connections; what the log does to a stream is tested elsewhere

LASTS = ("response.completed", "response.incomplete", "response.failed", "error")
LONG = "word " * 150
"""At 100 tokens a second, the echo of it takes a second and a half."""


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """An engine that answers with what it was told; a second gateway, whose connections live for a second only."""
    folder = tmp_path_factory.mktemp("websocket")
    (folder / "keys.yaml").write_text("sk-ours: {tenant: ours}\n")
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "100",
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
        "CHATMESH_ALLOWED_ORIGINS": "https://chat.example.org",
    }
    async with Mesh(broker, folder, env=env) as running:
        running.add(Service.GATEWAY, CHATMESH_CONNECTION_LIMIT_S="1", CHATMESH_CONNECTION_GRACE_S="0.2")
        await running.wait_ready()
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.urls()[0], api_key="sk-ours", max_retries=0, timeout=60) as sdk:
        yield sdk


async def ends(connection: Any, count: int) -> dict[str | None, list[Any]]:
    """The last events of `count` responses, by lane."""
    found: dict[str | None, list[Any]] = defaultdict(list)
    async with asyncio.timeout(60):
        while sum(map(len, found.values())) < count:
            event = await connection.recv()
            if event.type in LASTS:
                found[event.stream_id].append(event)
    return found


async def turn(connection: Any, text: str, **fields: Any) -> Any:
    """One turn that completes; its Response."""
    await connection.response.create(model=MODEL, input=text, **fields)
    ((event,),) = (await ends(connection, 1)).values()
    assert event.type == "response.completed", event
    return event.response


async def refusal(connection: Any, text: str, **fields: Any) -> Any:
    """One turn that is refused; its error."""
    await connection.response.create(model=MODEL, input=text, **fields)
    ((event,),) = (await ends(connection, 1)).values()
    assert isinstance(event, ResponseWsError), event
    return event.error


async def context_of(mesh: Mesh, response_id: str) -> list[str]:
    """What was said before, as the model is reminded of it."""
    requested = next(record for record in await journal_of(mesh, response_id) if isinstance(record, Requested))
    return [message.text for message in requested.context]


async def test_a_lane_remembers_what_nobody_stores(mesh: Mesh, client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        first = await turn(connection, "one", store=False, stream_id="main")
        assert (first.output_text, first.store) == ("one", False)
        fork = await turn(connection, "aside", store=False, stream_id="critic", previous_response_id=first.id)
        second = await turn(connection, "two", store=False, stream_id="main", previous_response_id=first.id)
        third = await turn(connection, "three", stream_id="main", previous_response_id=second.id)
        assert await context_of(mesh, fork.id) == ["one", "one"]
        assert await context_of(mesh, third.id) == ["one", "one", "two", "two"]
        error = await refusal(connection, "late", stream_id="critic", previous_response_id=first.id)
        assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    async with client.responses.connect() as connection:
        error = await refusal(connection, "elsewhere", previous_response_id=second.id)
        assert error.code == "previous_response_not_found"


async def test_stored_turns_and_others_go_on_together(mesh: Mesh, client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="one")
    async with client.responses.connect() as connection:
        second = await turn(connection, "two", store=False, previous_response_id=first.id)
        third = await turn(connection, "three", store=False, previous_response_id=second.id)
        assert third.previous_response_id == second.id
        assert await context_of(mesh, third.id) == ["one", "one", "two", "two"]
        await client.responses.delete(first.id)
        error = await refusal(connection, "four", previous_response_id=third.id)
        assert error.code == "previous_response_not_found"


async def test_an_error_on_its_lane_evicts_the_parent(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        first = await turn(connection, "one", store=False)
        assert (await refusal(connection, "two", previous_response_id=first.id, temperature=9)).param == "temperature"
        assert (await refusal(connection, "two", previous_response_id=first.id)).code == "previous_response_not_found"


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_can_be_gone_on_from(mesh: Mesh, client: AsyncOpenAI, store: bool) -> None:
    async with client.responses.connect() as connection:
        warm = await turn(connection, "be kind", generate=False, store=store)
        assert (warm.status, warm.output) == ("completed", [])
        second = await turn(connection, "two", previous_response_id=warm.id, store=store)
        assert await context_of(mesh, second.id) == ["be kind"]
        empty = await turn(connection, "", generate=False, store=store, instructions="be kind")
        assert (await turn(connection, "three", previous_response_id=empty.id, store=store)).output_text == "three"
    if store:
        other = await client.responses.create(model=MODEL, input="over HTTP", previous_response_id=second.id)
        assert await context_of(mesh, other.id) == ["be kind", "two", "two"]


async def test_sixteen_are_in_flight_and_every_lane_keeps_its_order(client: AsyncOpenAI) -> None:
    begun: list[tuple[str, str]] = []
    in_flight, peak = 0, 0
    async with client.responses.connect() as connection:
        for number in range(2):
            for lane in range(20):
                await connection.response.create(model=MODEL, input=f"{number} of {lane}", stream_id=f"lane-{lane}")
        async with asyncio.timeout(60):
            while len(begun) < 40 or in_flight:
                event = await connection.recv()
                assert event.type != "error", event
                if event.type == "response.created":
                    in_flight += 1
                    peak = max(peak, in_flight)
                    begun.append((event.stream_id, event.response.id))
                if event.type == "response.completed":
                    in_flight -= 1
                    assert event.response.output_text.endswith(event.stream_id.removeprefix("lane-"))
    assert peak <= 16
    for lane in range(20):
        ours = [response_id for stream_id, response_id in begun if stream_id == f"lane-{lane}"]
        assert ours == sorted(ours)  # ids hold their time
        assert len(ours) == 2


async def test_the_thirty_third_lane_is_refused(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        for lane in range(33):
            await connection.response.create(model=MODEL, input="x", generate=False, stream_id=f"{lane}")
        found = await ends(connection, 33)
    (error,) = found.pop("32")
    assert error.error.code == "websocket_stream_limit_reached"
    assert all(event.type == "response.completed" for events in found.values() for event in events)


async def test_steering_is_refused_in_the_sdks_words(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.steer(previous_response_id="resp_1", input="left")
        event = await connection.recv()
        assert isinstance(event, ResponseSteerFailedEvent)
        assert event.error.code == "steering_not_supported"
        assert event.steer.input == "left"


async def test_a_response_is_followed_over_any_transport(mesh: Mesh, client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input=LONG, stream=True)
    created = await anext(aiter(stream))
    chat = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": LONG}], stream=True)
    spoken = await anext(aiter(chat))
    for response_id in (created.response.id, spoken.id):
        query = {"response_id": response_id, "starting_after": "0"}
        async with client.responses.connect(extra_query=query) as connection:
            assert (await connection.recv()).type == "response.in_progress"
            ((event,),) = (await ends(connection, 1)).values()
            assert event.response.output_text == LONG.strip()
    async with client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=LONG)
        begun = await connection.recv()
        events = await client.responses.retrieve(begun.response.id, stream=True, starting_after=1)
        assert [event async for event in events][-1].response.output_text == LONG.strip()
        ((event,),) = (await ends(connection, 1)).values()
        assert event.response.output_text == LONG.strip()


async def test_the_sdk_goes_on_where_a_connection_ends_its_life(mesh: Mesh) -> None:
    place = {"response_id": "", "starting_after": ""}

    def resume(_: Any) -> Any:
        return {"extra_query": dict(place)}

    text, numbers = "", []
    async with (
        AsyncOpenAI(base_url=mesh.urls()[1], api_key="sk-ours", max_retries=0) as sdk,
        sdk.responses.connect(on_reconnecting=resume, initial_delay=0.05) as connection,
    ):
        await connection.response.create(model=MODEL, input=LONG + LONG)
        async with asyncio.timeout(60):
            async for event in connection:
                if event.type == "error":
                    assert event.error.code == "websocket_connection_limit_reached"
                    continue
                numbers.append(event.sequence_number)
                place["starting_after"] = str(event.sequence_number)
                if event.type == "response.created":
                    place["response_id"] = event.response.id
                if event.type == "response.output_text.delta":
                    text += event.delta
                if event.type == "response.completed":
                    assert event.response.output_text == text
                    break
    assert numbers == list(range(len(numbers)))
    assert text == (LONG + LONG).strip()


async def test_a_page_connects_with_its_key_as_a_subprotocol(mesh: Mesh) -> None:
    url = mesh.url.replace("http", "ws") + "/responses"
    protocols: Any = ["realtime", "openai-insecure-api-key.sk-ours"]
    page: Any = "https://chat.example.org"
    async with websockets.connect(url, subprotocols=protocols, origin=page) as ws:
        assert ws.subprotocol == "realtime"
        await ws.send(json.dumps({"type": "response.create", "model": MODEL, "input": "from a page"}))
        async with asyncio.timeout(30):
            while (event := json.loads(await ws.recv()))["type"] != "response.completed":
                assert event["type"] != "error", event
    for offered, origin, status in (
        (["realtime", f"openai-insecure-api-key.{uuid.uuid4()}"], page, 401),
        (protocols, "https://evil.example.org", 403),
    ):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, subprotocols=offered, origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code == status
