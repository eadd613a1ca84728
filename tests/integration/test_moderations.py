"""OpenAI's Moderations API through the broker, and moderation that a request asks for, with the unmodified SDK."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import ModerationCreateResponse
from openai.types.responses import Response

from deploy.brokers import Broker
from services.moderation.policy import Policy, parse_policy
from shared.records import MODERATION_CATEGORIES
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh
from tests.support.otlp import Collector, SpanSeen

pytestmark = pytest.mark.any_broker  # a dialect; verdicts and windows are tested elsewhere on both

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
  violence:
    patterns: ["angry teapot"]
    input: off
    output: off
tenants:
  local: {categories: {violence: {input: flag}}}
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
    looked_for = ("harassment", "illicit", "violence")
    assert sources == {**dict.fromkeys(MODERATION_CATEGORIES, "none"), **dict.fromkeys(looked_for, "rules")}


async def test_a_tenant_s_own_rules_count(client: AsyncOpenAI, policy: Policy) -> None:
    """Whoever has no key is the tenant `local`; for all others the policy does not look for this."""
    found = await client.moderations.create(input="an angry teapot")
    assert found.results[0].categories.violence and found.model == policy.name


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


# -- inside a request ------------------------------------------------------------------------------------------------

SCORE: Any = {"model": OMNI}
BLOCK_INPUT: Any = {"model": OMNI, "policy": {"input": {"mode": "block"}}}
BLOCK_OUTPUT: Any = {"model": OMNI, "policy": {"output": {"mode": "block"}}}


async def test_a_response_tells_what_was_made_of_both_sides(client: AsyncOpenAI, policy: Policy) -> None:
    response = await client.responses.create(model=MODEL, input="Hello", moderation=SCORE)
    assert (response.status, response.output_text) == ("completed", SAID)
    _check(response, policy, flagged=(False, True))
    assert (await client.responses.retrieve(response.id)).moderation == response.moderation
    plain = await client.responses.create(model=MODEL, input="Hello")
    assert plain.moderation is None


async def test_a_stream_tells_it_at_its_end_live_and_replayed(client: AsyncOpenAI, policy: Policy) -> None:
    stream = await client.responses.create(model=MODEL, input="crimson walrus", moderation=SCORE, stream=True)
    live = [event async for event in stream]
    assert live[0].type == "response.created" and live[0].response.moderation is None
    assert live[-1].type == "response.completed"
    _check(live[-1].response, policy, flagged=(True, True))
    again = [event async for event in await client.responses.retrieve(live[-1].response.id, stream=True)]
    assert [event.to_json() for event in again] == [event.to_json() for event in live]


async def test_what_would_be_flagged_is_refused_where_the_request_asks_for_it(client: AsyncOpenAI) -> None:
    told = await client.responses.create(model=MODEL, input="crimson walrus", moderation=SCORE)
    assert told.status == "completed"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="crimson walrus", moderation=BLOCK_INPUT)
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "input")


async def test_what_would_be_flagged_is_cut_where_the_request_asks_for_it(client: AsyncOpenAI, policy: Policy) -> None:
    response = await client.responses.create(model=MODEL, input="Hello", moderation=BLOCK_OUTPUT)
    assert (response.status, response.output_text) == ("incomplete", "The sun is up. What a ")
    _check(response, policy, flagged=(False, True))


async def test_a_completion_tells_it_for_the_prompt_and_for_each_choice(client: AsyncOpenAI, policy: Policy) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    whole = await client.chat.completions.create(model=MODEL, messages=messages, n=2, moderation=SCORE)
    assert whole.moderation is not None
    assert whole.moderation.input.type == whole.moderation.output.type == "moderation_results"
    assert whole.moderation.output.model == policy.name
    assert [result.flagged for result in whole.moderation.input.results] == [False]
    assert [result.flagged for result in whole.moderation.output.results] == [True, True]
    stream = await client.chat.completions.create(model=MODEL, messages=messages, moderation=SCORE, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [chunk.moderation is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []


async def test_over_a_websocket_it_is_the_same(client: AsyncOpenAI, policy: Policy) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="crimson walrus", moderation=SCORE)
        async for event in connection:
            if event.type == "response.completed":
                _check(event.response, policy, flagged=(True, True))
                return
    raise AssertionError("the connection closed before the response had ended")


async def test_a_turn_that_says_nothing_has_both_results_too(client: AsyncOpenAI, policy: Policy) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="crimson walrus", moderation=SCORE, generate=False)
        async for event in connection:
            if event.type == "response.completed":
                _check(event.response, policy, flagged=(True, False))
                return
    raise AssertionError("the connection closed before the response had ended")


def _check(response: Response, policy: Policy, *, flagged: tuple[bool, bool]) -> None:
    moderation = response.moderation
    assert moderation is not None
    for part, expected in zip((moderation.input, moderation.output), flagged, strict=True):
        assert part.type == "moderation_result"
        assert (part.model, part.flagged) == (policy.name, expected)
        assert set(part.categories) == set(MODERATION_CATEGORIES)
        assert part.categories["harassment"] is expected


# -- when a replica dies --------------------------------------------------------------------------------------------


async def test_a_replica_that_dies_leaves_its_questions_to_the_other(mesh: Mesh) -> None:
    """Last, for it takes a replica away. A gateway gives a question up after 10 s; the SDK then asks again."""
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=2, timeout=30) as client:
        victim = mesh.of(Service.MODERATION)[0]
        victim.process.kill()
        mesh.retire(victim)
        answers = await asyncio.gather(*(client.moderations.create(input="a crimson walrus") for _ in range(20)))
    assert all(answer.results[0].flagged for answer in answers)
