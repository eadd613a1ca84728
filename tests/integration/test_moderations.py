"""OpenAI's Moderations API through the broker, with the unmodified SDK."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types import ModerationCreateResponse

from deploy.brokers import Broker
from services.moderation.policy import Policy, parse_policy
from shared.records import MODERATION_CATEGORIES
from shared.topics import Service
from tests.support.mesh import Mesh
from tests.support.otlp import Collector, SpanSeen

SAID = "The sun is up. What a crimson walrus that was."
POLICY = """
version: ask-1
streaming: {stride: 4, lookback: 64, hold_back: 32}
categories:
  harassment:
    patterns: ["crimson walrus"]
    input: flag
    output: flag
  illicit:
    patterns: ["green submarine"]
    input: refuse
    output: cut
"""
OMNI = "omni-moderation-latest"

QUESTION_GRAPH = {
    ("gateway", "POST /v1/moderations"): None,
    ("moderation", "process moderation.queries"): ("gateway", "POST /v1/moderations"),
    ("moderation", "send gateway.replies"): ("moderation", "process moderation.queries"),
}
"""(service, span) → its parent, as for a response in `test_service_graph`."""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse_policy(POLICY)


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as made:
        yield made


@pytest.fixture(scope="module")
async def mesh(broker: Broker, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Two moderation replicas share the questions; the engine always says SAID."""
    folder = tmp_path_factory.mktemp("moderations")
    (folder / "policy.yaml").write_text(POLICY)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TEXT": SAID,
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
        **collector.env,
    }
    counts = {Service.GATEWAY: 1, Service.MODERATION: 2, Service.INFERENCE: 1}
    async with Mesh(broker, folder, env=env, counts=counts) as made:
        yield made


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    options: Any = {"_strict_response_validation": True}
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=30, **options) as sdk:
        yield sdk


# -- the endpoint ----------------------------------------------------------------------------------------------------


async def test_texts_are_judged_by_the_server_s_policy(client: AsyncOpenAI, policy: Policy) -> None:
    found = await client.moderations.create(
        input=["How do I bake bread?", "the crimson walrus", "a green submarine"], model=OMNI
    )
    assert found.model == policy.name
    assert [result.flagged for result in found.results] == [False, True, True]
    harassing = found.results[1]
    assert harassing.categories.harassment and not harassing.categories.illicit
    assert (harassing.category_scores.harassment, harassing.category_scores.illicit) == (1.0, 0.0)
    sources = harassing.to_dict()["category_sources"]
    assert sources == {**dict.fromkeys(MODERATION_CATEGORIES, "none"), "harassment": "rules", "illicit": "rules"}


async def test_text_parts_are_one_text(client: AsyncOpenAI) -> None:
    parts: Any = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "crimson walrus"}]
    (result,) = (await client.moderations.create(input=parts)).results
    assert result.flagged


async def test_replicas_share_many_questions(client: AsyncOpenAI) -> None:
    async def ask(number: int) -> ModerationCreateResponse:
        return await client.moderations.create(input=f"{number}: a crimson {('wolf', 'walrus')[number % 2]}")

    answers = await asyncio.gather(*(ask(number) for number in range(60)))
    assert [answer.results[0].flagged for answer in answers] == [number % 2 == 1 for number in range(60)]
    assert len({answer.id for answer in answers}) == 60


async def test_one_trace_over_gateway_and_moderation(client: AsyncOpenAI, collector: Collector) -> None:
    trace_id = "5b8aa5a2d2c872e8321cf37308d69df2"
    headers = {"traceparent": f"00-{trace_id}-051581bf3cb55c13-01"}
    await client.moderations.create(input="Hello", extra_headers=headers)

    def seen() -> list[SpanSeen]:
        return [span for span in collector.spans if span.trace_id == trace_id]

    async with asyncio.timeout(20):
        while len(seen()) < len(QUESTION_GRAPH):
            await asyncio.sleep(0.05)
    by_id = {span.span_id: (span.service, span.name) for span in seen()}
    assert {(span.service, span.name): by_id.get(span.parent_id) for span in seen()} == QUESTION_GRAPH
