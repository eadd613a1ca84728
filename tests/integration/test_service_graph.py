"""One trace spans a response over all services (DESIGN 8.7), asserted from one table."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.tracing.graph import SERVICE_GRAPH, SpanSeen, faults, graph_of
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh
from tests.support.otlp import Collector
from tests.support.scraping import exemplars_of, management_url

TRANSPORTS = ("json", "sse")
TOKENS = 100


# What tells how long something took leads to a trace in which one can see why.
WITH_EXEMPLARS = (
    (Service.GATEWAY, "chatmesh_response_time_to_first_token_seconds"),
    (Service.GATEWAY, "chatmesh_response_time_per_output_token_seconds"),
    (Service.INFERENCE, "gen_ai_server_request_duration_seconds"),
    (Service.INFERENCE, "gen_ai_server_time_to_first_token_seconds"),
    (Service.INFERENCE, "gen_ai_server_time_per_output_token_seconds"),
    (Service.MODERATION, "chatmesh_hold_back_seconds"),
)


@dataclass(frozen=True)
class Told:
    """What a mesh told of its responses; `exemplars`: service and histogram → (trace id, response id)."""

    traces: Mapping[str, list[SpanSeen]]
    exemplars: Mapping[tuple[Service, str], set[tuple[str, str]]]


@pytest.fixture(scope="module")
async def told(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """All spans of a response over each transport, once every service has ended and so told its last ones."""
    async with Collector() as collector:
        env = {
            "CHATMESH_ENGINE": "scripted",
            "CHATMESH_SCRIPT_LENGTH": str(TOKENS),  # several batches of text
            "CHATMESH_MANAGEMENT_PORT": "0",
            **collector.env,
        }
        async with (
            Mesh(broker, tmp_path_factory.mktemp("traced"), env=env) as mesh,
            AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0) as client,
        ):
            asked = {transport: await ask(client, transport) for transport in TRANSPORTS}
            async with asyncio.timeout(20):
                while any(len(graph_of(collector.of_response(r))) < len(SERVICE_GRAPH) for r in asked.values()):
                    await asyncio.sleep(0.1)
            exemplars = {
                (service, name): await exemplars_of(management_url(mesh.of(service)[0]), name)
                for service, name in WITH_EXEMPLARS
            }
    return Told({transport: collector.of_response(asked_for) for transport, asked_for in asked.items()}, exemplars)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_trace_over_all_services(told: Told, transport: str) -> None:
    spans = told.traces[transport]
    assert graph_of(spans) == SERVICE_GRAPH
    assert faults(spans, undisturbed=True) == []
    chat = next(span for span in spans if span.service == "inference")
    assert chat.attributes["gen_ai.usage.output_tokens"] == TOKENS + 1
    assert len(spans) == len(SERVICE_GRAPH), "per-token work must make no spans"


@pytest.mark.parametrize(("service", "name"), WITH_EXEMPLARS)
def test_a_histogram_leads_to_the_traces_of_its_responses(told: Told, service: Service, name: str) -> None:
    traced = {
        (span.trace_id, span.attributes["gen_ai.response.id"])
        for spans in told.traces.values()
        for span in spans
        if span.service == "inference"
    }
    assert told.exemplars[service, name]
    assert told.exemplars[service, name] <= traced


async def ask(client: AsyncOpenAI, transport: str) -> str:
    if transport == "json":
        return (await client.responses.create(model=MODEL, input="Hi")).id
    async for event in await client.responses.create(model=MODEL, input="Hi", stream=True):
        if event.type == "response.completed":
            return event.response.id
    raise AssertionError("the stream ended without response.completed")
