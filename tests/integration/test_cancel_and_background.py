"""Cancel, background and resume with the official SDK against real processes: two gateways, two tenants."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.heartbeats import ClusterWatcher
from shared.records import Cancel, Detached
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import journal_of
from tests.support.mesh import Mesh

KEYS = "sk-ours: {tenant: ours}\nsk-theirs: {tenant: theirs}\n"
COUNTS = {Service.GATEWAY: 2, Service.MODERATION: 1, Service.INFERENCE: 1, Service.HISTORY: 1}
LONG: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 400}
SHORT: dict[str, Any] = {**LONG, "max_output_tokens": 80}
FREED_S = 5.0
"""What is cancelled in its first second would hold its slot for nine more."""


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """40 tokens a second: LONG runs for 10 s, SHORT for 2 s."""
    folder = tmp_path_factory.mktemp("cancel")
    (folder / "keys.yaml").write_text(KEYS)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "40",
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
        "CHATMESH_FOREGROUND_GRACE_S": "1",
    }
    async with Mesh(broker, folder, env=env, counts=COUNTS) as running:
        yield running


@pytest.fixture
async def clients(mesh: Mesh) -> AsyncIterator[list[AsyncOpenAI]]:
    """One client of the same tenant per gateway."""
    made = [AsyncOpenAI(base_url=url, api_key="sk-ours", max_retries=0, timeout=60) for url in mesh.urls()]
    yield made
    for client in made:
        await client.close()


async def until_no_claim_is_held(mesh: Mesh) -> None:
    """Return once a fresh beat of every worker names no claim; raises TimeoutError after FREED_S."""
    watcher = ClusterWatcher(mesh.settings, Service.GATEWAY)
    await watcher.start()
    try:
        async with asyncio.timeout(FREED_S):
            while True:
                workers = watcher.cluster.alive(Service.INFERENCE)
                if workers and not any(worker.beat.claims for worker in workers):
                    return
                await asyncio.sleep(0.01)
    finally:
        await watcher.stop()


def said(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def read_until_text(stream: Any) -> list[Any]:
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            return events
    raise AssertionError("the stream ended without text")


@pytest.mark.parametrize("background", [False, True])
async def test_a_cancel_from_the_other_gateway_ends_the_stream_and_frees_the_slot(
    mesh: Mesh, clients: list[AsyncOpenAI], background: bool
) -> None:
    here, there = clients
    stream = await here.responses.create(stream=True, background=background, **LONG)
    events = await read_until_text(stream)
    response_id = events[0].response.id
    cancelled = await there.responses.cancel(response_id)
    await until_no_claim_is_held(mesh)
    events += [event async for event in stream]
    last = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    assert cancelled.status == "cancelled"
    assert said(events) == cancelled.output_text == last.response.output_text != ""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (await here.responses.cancel(response_id)).to_dict() == cancelled.to_dict()
    assert (await here.responses.retrieve(response_id)).to_dict() == cancelled.to_dict()


async def test_what_has_ended_cannot_be_cancelled(clients: list[AsyncOpenAI]) -> None:
    ended = await clients[0].responses.create(**{**SHORT, "max_output_tokens": 5})
    with pytest.raises(openai.BadRequestError, match="Cannot cancel an incomplete response"):
        await clients[1].responses.cancel(ended.id)


async def test_another_tenants_response_cannot_be_cancelled(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    running = await clients[0].responses.create(background=True, **LONG)
    async with AsyncOpenAI(base_url=mesh.url, api_key="sk-theirs", max_retries=0) as theirs:
        with pytest.raises(openai.NotFoundError):
            await theirs.responses.cancel(running.id)
    assert not [record for record in await journal_of(mesh, running.id) if isinstance(record, Cancel)]
    assert (await clients[0].responses.cancel(running.id)).status == "cancelled"


async def test_a_background_response_is_polled_until_it_ends(clients: list[AsyncOpenAI]) -> None:
    response = await clients[0].responses.create(background=True, **SHORT)
    assert response.status in ("queued", "in_progress")
    async with asyncio.timeout(30):
        while response.status in ("queued", "in_progress"):
            await asyncio.sleep(0.1)
            response = await clients[1].responses.retrieve(response.id)
    assert response.status == "incomplete"
    assert response.usage is not None
    assert response.usage.output_tokens == SHORT["max_output_tokens"]


async def test_a_background_stream_goes_on_alone_and_resumes_at_the_other_gateway(
    mesh: Mesh, clients: list[AsyncOpenAI]
) -> None:
    stream = await clients[0].responses.create(stream=True, background=True, **SHORT)
    events = await read_until_text(stream)
    await stream.close()
    await asyncio.sleep(1.2)  # longer than the grace that ends what runs in the foreground
    response_id, seen = events[0].response.id, events[-1].sequence_number
    events += [e async for e in await clients[1].responses.retrieve(response_id, stream=True, starting_after=seen)]
    whole = [e async for e in await clients[0].responses.retrieve(response_id, stream=True)]
    assert [event.to_dict() for event in events] == [event.to_dict() for event in whole]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert said(events) == events[-1].response.output_text
    kinds = {type(record) for record in await journal_of(mesh, response_id)}
    assert not kinds & {Cancel, Detached}, "who reads it decides nothing"


async def test_a_foreground_response_lives_as_long_as_anyone_reads_it_anywhere(
    mesh: Mesh, clients: list[AsyncOpenAI]
) -> None:
    first = await clients[0].responses.create(stream=True, **LONG)
    response_id = (await read_until_text(first))[0].response.id
    assert (await clients[1].responses.retrieve(response_id)).status == "in_progress"
    second = await clients[1].responses.retrieve(response_id, stream=True)
    await read_until_text(second)
    await first.close()
    await asyncio.sleep(1.5)
    assert (await clients[0].responses.retrieve(response_id)).status == "in_progress"
    await second.close()
    async with asyncio.timeout(10):
        while (await clients[0].responses.retrieve(response_id)).status == "in_progress":
            await asyncio.sleep(0.1)
    assert (await clients[0].responses.retrieve(response_id)).status == "cancelled"
    await until_no_claim_is_held(mesh)
    cancels = [record.reason for record in await journal_of(mesh, response_id) if isinstance(record, Cancel)]
    assert cancels == ["abandoned"]
