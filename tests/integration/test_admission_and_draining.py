"""Several gateways as processes: one bound over all of them, and one that leaves under its clients' streams."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import websockets
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.records import Cancel
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import journal_of
from tests.support.mesh import Mesh, Replica

pytestmark = pytest.mark.any_broker  # bounds and draining are the gateways' own

COUNTS = {Service.GATEWAY: 2, Service.MODERATION: 1, Service.INFERENCE: 1, Service.HISTORY: 1}
SLOTS, MAX_WAITING = 2, 4
SHORT: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 40}
LONG: dict[str, Any] = {**SHORT, "max_output_tokens": 240}
GRACE_S = 2.5
"""What a gateway does in its grace is seen on a busy machine too, and LONG runs for longer."""
HEARD_S = 10.0
"""For a signal to be heard."""


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """40 tokens a second: SHORT runs for 1 s, LONG for 6 s."""
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "40",
        "CHATMESH_SLOTS": str(SLOTS),
        "CHATMESH_MAX_WAITING": str(MAX_WAITING),
        "CHATMESH_DRAIN_GRACE_S": str(GRACE_S),
    }
    async with Mesh(broker, tmp_path_factory.mktemp("gateways"), env=env, counts=COUNTS) as running:
        yield running


@pytest.fixture
async def clients(mesh: Mesh) -> AsyncIterator[list[AsyncOpenAI]]:
    made = [AsyncOpenAI(base_url=url, api_key="local", max_retries=0, timeout=60) for url in mesh.urls()[:2]]
    yield made
    for client in made:
        await client.close()


@pytest.fixture
async def victim(mesh: Mesh) -> AsyncIterator[Replica]:
    """A third gateway, to be ended."""
    replica = mesh.add(Service.GATEWAY)
    await mesh.wait_ready()
    yield replica
    await asyncio.to_thread(replica.process.stop, 20)
    mesh.retire(replica)


async def ask(client: AsyncOpenAI) -> Any:
    try:
        return await client.responses.create(**SHORT)
    except openai.APIStatusError as error:
        return error


async def test_together_the_gateways_let_in_what_fits_and_all_of_that_ends(
    mesh: Mesh, clients: list[AsyncOpenAI]
) -> None:
    answers = await asyncio.gather(*(ask(clients[n % 2]) for n in range(16)))
    refused = [(n % 2, answer) for n, answer in enumerate(answers) if isinstance(answer, openai.APIStatusError)]
    assert {error.status_code for _, error in refused} == {429}
    assert {where for where, _ in refused} == {0, 1}, "both refuse, though neither has much to do itself"
    assert all(1 <= int(error.response.headers["retry-after"]) <= 60 for _, error in refused)
    admitted = [answer for answer in answers if not isinstance(answer, openai.APIStatusError)]
    assert Counter(answer.status for answer in admitted) == {"incomplete": len(admitted)}
    assert SLOTS <= len(admitted) <= SLOTS + MAX_WAITING + len(clients) - 1
    # The queue drained: there is room again.
    assert (await clients[0].responses.create(**SHORT)).status == "incomplete"


async def test_who_comes_again_when_told_to_is_served(clients: list[AsyncOpenAI]) -> None:
    patient = [client.with_options(max_retries=10) for client in clients]
    answers = await asyncio.gather(*(patient[n % 2].responses.create(**SHORT) for n in range(16)))
    assert {answer.status for answer in answers} == {"incomplete"}


def url_of(replica: Replica) -> str:
    return f"http://127.0.0.1:{replica.port}/v1"


async def read_all(stream: Any, events: list[Any]) -> None:
    async for event in stream:
        events.append(event)


async def test_a_gateway_that_leaves_tears_no_stream(mesh: Mesh, clients: list[AsyncOpenAI], victim: Replica) -> None:
    url = url_of(victim)
    ws_url = url.replace("http", "ws") + "/responses"
    async with (
        AsyncOpenAI(base_url=url, api_key="local", max_retries=0) as there,
        httpx.AsyncClient() as http,
        websockets.connect(ws_url) as ws,
        websockets.connect(ws_url) as idle,
    ):
        events: list[Any] = []
        reading = asyncio.create_task(read_all(await there.responses.create(stream=True, **LONG), events))
        await ws.send(json.dumps({"type": "response.create", **LONG}))
        await ws.recv()
        async with asyncio.timeout(20):
            while not any(event.type == "response.output_text.delta" for event in events):
                await asyncio.sleep(0.01)
        victim.process.signal(signal.SIGTERM)
        begun_s = time.monotonic()
        await until_it_leaves(http, victim)
        refused = await http.post(f"{url}/responses", json=SHORT)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert int(refused.headers["retry-after"]) >= 1
        assert await close_code(idle) == 1012
        assert not reading.done(), "what runs goes on"
        with pytest.raises(openai.APIConnectionError):
            await reading
        assert time.monotonic() - begun_s >= GRACE_S
        assert await close_code(ws) == 1012
    assert await asyncio.to_thread(victim.process.wait, 15)
    assert victim.process.exit_code == 0
    await resumed_elsewhere(mesh, clients[1], events)


async def until_it_leaves(http: httpx.AsyncClient, gateway: Replica) -> None:
    """Return once it has heard that it is to end."""
    async with asyncio.timeout(HEARD_S):
        while (await http.get(url_of(gateway).removesuffix("/v1") + "/readyz")).status_code != 503:
            await asyncio.sleep(0.01)


async def resumed_elsewhere(mesh: Mesh, client: AsyncOpenAI, events: list[Any]) -> None:
    response_id, seen = events[0].response.id, events[-1].sequence_number
    await read_all(await client.responses.retrieve(response_id, stream=True, starting_after=seen), events)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == LONG["max_output_tokens"]
    assert not [record for record in await journal_of(mesh, response_id) if isinstance(record, Cancel)]


async def close_code(ws: Any) -> int:
    with pytest.raises(websockets.ConnectionClosed) as caught:
        async with asyncio.timeout(15):
            while True:
                await ws.recv()
    assert caught.value.rcvd is not None
    return int(caught.value.rcvd.code)


async def test_a_second_signal_hurries_the_end(mesh: Mesh) -> None:
    patient = mesh.add(Service.GATEWAY, CHATMESH_DRAIN_GRACE_S="30", CHATMESH_SHUTDOWN_S="60")
    try:
        await mesh.wait_ready()
        async with (
            AsyncOpenAI(base_url=url_of(patient), api_key="local", max_retries=0) as client,
            httpx.AsyncClient() as http,
        ):
            events: list[Any] = []
            stream = await client.responses.create(stream=True, **LONG)
            events.append(await anext(aiter(stream)))
            patient.process.signal(signal.SIGTERM)
            await until_it_leaves(http, patient)  # two signals at once are one to the kernel
            assert patient.process.running
            patient.process.signal(signal.SIGTERM)
            with pytest.raises(openai.APIConnectionError):
                await read_all(stream, events)
        assert await asyncio.to_thread(patient.process.wait, 10)
        assert patient.process.exit_code == 0
    finally:
        await asyncio.to_thread(patient.process.stop, 5)
        mesh.retire(patient)
