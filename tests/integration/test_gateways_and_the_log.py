"""What clients see of the log's limits: its retention, and a broker that is away. On a persistent broker only."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import parse_response_id
from shared.log.clients import topic_name
from shared.topics import EVENTS
from tests.chaos.scenarios.logs import stored
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh

SHORT: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 20}
LONG: dict[str, Any] = {**SHORT, "max_output_tokens": 300}
STORED_WITHIN_S = 20.0
REFUSED_WITHIN_S = 15.0
"""The request timeout, twice, and a loaded machine."""
UNASKED_WITHIN_S = 3.0
"""Less than `ledger_timeout_s`, and a loaded machine."""


@pytest.fixture(scope="module")
def own_broker(broker: Broker) -> Iterator[Broker]:
    """One that may be killed."""
    if not (broker.capabilities.persistent and broker.capabilities.controllable):
        pytest.skip("needs a broker of ours that keeps its records")
    with type(broker)() as own:
        yield own


@pytest.fixture(scope="module")
async def mesh(own_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    env = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "40"}
    async with Mesh(own_broker, tmp_path_factory.mktemp("log"), env=env) as running:
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=120) as made:
        yield made


async def events_behind(client: AsyncOpenAI, response_id: str, number: int) -> list[Any]:
    return [e async for e in await client.responses.retrieve(response_id, stream=True, starting_after=number)]


async def forget(mesh: Mesh, *response_ids: str) -> None:
    """As the log's retention does in time, when history has long stored them: the events' partition of the first one
    loses all that it holds."""
    async with asyncio.timeout(STORED_WITHIN_S):
        while None in (await stored(mesh, response_ids)).values():
            await asyncio.sleep(0.05)
    admin = AIOKafkaAdminClient(bootstrap_servers=mesh.broker.bootstrap)
    await admin.start()
    try:
        where = TopicPartition(topic_name(mesh.settings, EVENTS), parse_response_id(response_ids[0]).partition)
        await admin.delete_records({where: RecordsToDelete(before_offset=-1)})
    finally:
        await admin.close()


async def test_behind_the_logs_retention_the_store_answers(mesh: Mesh, client: AsyncOpenAI) -> None:
    live = [event async for event in await client.responses.create(stream=True, background=True, **SHORT)]
    response_id = live[0].response.id
    await forget(mesh, response_id)
    kept = await client.responses.retrieve(response_id)
    assert kept.to_dict() == live[-1].response.to_dict()
    whole = [event async for event in await client.responses.retrieve(response_id, stream=True)]
    assert [event.to_dict() for event in whole[:4]] == [event.to_dict() for event in live[:4]]
    assert whole[4].delta == live[-1].response.output_text
    assert [event.type for event in whole[5:]] == [event.type for event in live[-4:]]
    late = await events_behind(client, response_id, 7)
    assert [event.sequence_number for event in late] == [8, 9, 10, 11]
    assert late[-1].response.to_dict() == live[-1].response.to_dict()


async def test_behind_the_logs_retention_a_response_is_deleted_in_the_store(mesh: Mesh, client: AsyncOpenAI) -> None:
    response, other = [await client.responses.create(**SHORT) for _ in range(2)]
    await forget(mesh, response.id, other.id)
    assert (await client.responses.retrieve(response.id)).to_dict() == response.to_dict()
    await client.responses.delete(response.id)
    for _ in range(2):
        for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await gone(response.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await client.responses.create(previous_response_id=response.id, **SHORT)
    assert (await client.responses.retrieve(other.id)).to_dict() == other.to_dict()


async def read_until_text(stream: Any) -> list[Any]:
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            return events
    raise AssertionError("the stream ended without text")


async def refused(client: AsyncOpenAI) -> float:
    """Seconds until a new request got its 503."""
    begun_s = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.responses.create(**SHORT)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1
    return time.monotonic() - begun_s


async def test_while_the_broker_is_away_requests_get_503_and_streams_wait(
    own_broker: Broker, client: AsyncOpenAI
) -> None:
    stream = await client.responses.create(stream=True, **LONG)
    events = await read_until_text(stream)
    await asyncio.to_thread(own_broker.kill)
    took_s = [await refused(client) for _ in range(3)]
    assert max(took_s) < REFUSED_WITHIN_S
    assert took_s[-1] < UNASKED_WITHIN_S, "once no beats come, nobody waits for an append to fail"
    await asyncio.to_thread(own_broker.restart)
    async with asyncio.timeout(60):
        events += [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == events[-1].response.output_text
    patient = client.with_options(max_retries=20)
    assert (await patient.responses.create(**SHORT)).status == "incomplete"
