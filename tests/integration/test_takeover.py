"""A stream survives the death of its worker and of its owner: the same text, no number missing or twice.

Real processes, real SIGKILL; the full matrix of faults belongs to the chaos suite.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import parse_response_id
from shared.records import Claimed
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import cluster_of, journal_of
from tests.support.mesh import STOP_S, Mesh, Replica

REQUEST: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 80}
COUNTS = {Service.GATEWAY: 1, Service.MODERATION: 2, Service.INFERENCE: 2, Service.HISTORY: 1}
Victim = Callable[[Mesh, str], Awaitable[Replica]]
Strike = Callable[[Victim, signal.Signals, str], Awaitable[None]]


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    env = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "20"}
    async with Mesh(broker, tmp_path_factory.mktemp("takeover"), env=env, counts=COUNTS) as running:
        yield running


@pytest.fixture(scope="module")
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
async def reference(client: AsyncOpenAI) -> str:
    """What is said when nobody dies."""
    return (await client.responses.create(**REQUEST)).output_text


@pytest.fixture
async def strike(mesh: Mesh) -> AsyncIterator[Strike]:
    """Sends a victim a signal; another replica is in its place afterwards."""
    struck: list[Replica] = []

    async def strike(victim: Victim, how: signal.Signals, response_id: str) -> None:
        replica = await victim(mesh, response_id)
        replica.process.signal(how)
        struck.append(replica)

    yield strike
    for replica in struck:
        await asyncio.to_thread(replica.process.stop, STOP_S)
        mesh.retire(replica)
        mesh.add(replica.service)
    await mesh.wait_ready()


async def worker_of(mesh: Mesh, response_id: str) -> Replica:
    claims = [r for r in await journal_of(mesh, response_id) if isinstance(r, Claimed)]
    return next(r for r in mesh.of(Service.INFERENCE) if r.id == claims[-1].worker)


async def owner_of(mesh: Mesh, response_id: str) -> Replica:
    partition = parse_response_id(response_id).partition
    cluster = await cluster_of(mesh)
    owner = next(m for m in cluster.alive(Service.MODERATION) if partition in m.beat.partitions)
    return next(r for r in mesh.of(Service.MODERATION) if r.id == owner.beat.id)


@pytest.mark.parametrize(
    ("victim", "how"),
    [(worker_of, signal.SIGKILL), (worker_of, signal.SIGTERM), (owner_of, signal.SIGKILL), (owner_of, signal.SIGTERM)],
    ids=["worker killed", "worker terminated", "owner killed", "owner terminated"],
)
async def test_the_stream_goes_on(
    mesh: Mesh, client: AsyncOpenAI, reference: str, strike: Strike, victim: Victim, how: signal.Signals
) -> None:
    text, numbers, struck = "", [], False
    async for event in await client.responses.create(stream=True, **REQUEST):
        numbers.append(event.sequence_number)
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            text += event.delta
            if not struck:
                struck = True
                await strike(victim, how, response_id)
    assert struck
    assert text == reference == event.response.output_text, mesh.logs()
    assert numbers == list(range(len(numbers)))
    assert event.response.usage.output_tokens == 80
