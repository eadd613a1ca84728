"""One trace spans a response over all services (DESIGN 8.7), asserted from one table."""

import asyncio

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.tracing.graph import SERVICE_GRAPH, SpanSeen, faults, graph_of
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh
from tests.support.otlp import Collector

TRANSPORTS = ("json", "sse")


@pytest.fixture(scope="module")
async def traces(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[SpanSeen]]:
    """All spans of a response over each transport, once every service has ended and so told its last ones."""
    async with Collector() as collector:
        env = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_LENGTH": "20", **collector.env}
        async with (
            Mesh(broker, tmp_path_factory.mktemp("traced"), env=env) as mesh,
            AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0) as client,
        ):
            asked = {transport: await ask(client, transport) for transport in TRANSPORTS}
            async with asyncio.timeout(20):
                while any(len(graph_of(collector.of_response(r))) < len(SERVICE_GRAPH) for r in asked.values()):
                    await asyncio.sleep(0.1)
    return {transport: collector.of_response(response_id) for transport, response_id in asked.items()}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_trace_over_all_services(traces: dict[str, list[SpanSeen]], transport: str) -> None:
    spans = traces[transport]
    assert graph_of(spans) == SERVICE_GRAPH
    assert faults(spans, undisturbed=True) == []
    chat = next(span for span in spans if span.service == "inference")
    assert chat.attributes["gen_ai.usage.output_tokens"] == 21
    assert len(spans) == len(SERVICE_GRAPH), "per-token work must make no spans"


async def ask(client: AsyncOpenAI, transport: str) -> str:
    if transport == "json":
        return (await client.responses.create(model=MODEL, input="Hi")).id
    async for event in await client.responses.create(model=MODEL, input="Hi", stream=True):
        if event.type == "response.completed":
            return event.response.id
    raise AssertionError("the stream ended without response.completed")
