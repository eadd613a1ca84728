"""`/v1/moderations` as the official SDK sees it, over a moderation service that plays its part from memory."""

import asyncio
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import ModerationCreateResponse, ModerationModel

from services.gateway.api import replies
from services.gateway.ledger import Limits, RateLimits
from shared.heartbeats import Cluster
from shared.ids import now_ms
from shared.records import Heartbeat, Moderate, Moderated, ModerationResult, ModerationWish, Rejected
from shared.topics import MODERATION_QUERIES
from tests.unit.gateway.harness import MODEL, PARTITIONS, Mesh, gateway

BAD = "I hate"


@dataclass
class Judge:
    """Flags every text that says BAD. `silent`: hears and does not answer; `reply` stands in for its answers."""

    heard: list[Moderate] = field(default_factory=list)
    silent: bool = False
    reply: Callable[[Moderate], Any] | None = None

    def __call__(self, query: Moderate) -> Any:
        self.heard.append(query)
        if self.silent:
            return None
        return self.reply(query) if self.reply is not None else answer(query, [_result(text) for text in query.texts])


def answer(query: Moderate, results: list[ModerationResult]) -> Moderated:
    return Moderated(gateway="gateway-1", correlation_id=query.correlation_id, results=results)


def _result(text: str) -> ModerationResult:
    score = 0.97 if BAD in text else 0.02
    flagged = ["hate"] if BAD in text else []
    return ModerationResult(policy="p-1@0a1b2c3d", scores={"hate": score}, flagged=flagged, sources={"hate": "model"})


def rejecting(status: int, code: str, message: str) -> Callable[[Moderate], Rejected]:
    def reject(query: Moderate) -> Rejected:
        return Rejected(
            gateway="gateway-1", correlation_id=query.correlation_id, status=status, code=code, message=message,
            error_type="server_error",
        )  # fmt: skip

    return reject


@pytest.fixture
async def judge() -> Judge:
    return Judge()


@pytest.fixture
async def mesh(judge: Judge) -> Any:
    async with gateway(Mesh(on_query=judge), keys=True, moderation_timeout_s=0.5) as serving:
        yield serving


@pytest.fixture
async def client(mesh: Mesh) -> Any:
    async with mesh.client() as sdk:
        yield sdk


async def test_a_text_is_judged(mesh: Mesh, client: AsyncOpenAI, judge: Judge) -> None:
    found = await client.moderations.create(input=f"{BAD} you", model="omni-moderation-latest")
    ModerationCreateResponse.model_validate(found.to_dict(), strict=True)
    replies.Moderations.model_validate(found.to_dict())
    assert found.id.startswith("modr_") and found.model == "p-1@0a1b2c3d"
    (result,) = found.results
    assert (result.flagged, result.categories.hate, result.category_scores.hate) == (True, True, 0.97)
    (query,) = judge.heard
    assert (query.tenant, query.texts, query.reply_to.gateway) == ("acme", [f"{BAD} you"], "gateway-1")
    assert 0 < query.deadline_ms - now_ms() <= 500
    assert [topic for topic, _ in mesh.writer.appended] == [MODERATION_QUERIES], "no limits, no key: no ledger"


async def test_every_text_of_a_list_has_its_own_result_and_parts_are_one_text(
    client: AsyncOpenAI, judge: Judge
) -> None:
    listed = await client.moderations.create(input=["Hello", f"{BAD} it", "Bye"])
    assert [result.flagged for result in listed.results] == [False, True, False]
    parts = await client.moderations.create(input=[{"type": "text", "text": "Hello"}, {"type": "text", "text": BAD}])
    assert [result.flagged for result in parts.results] == [True]
    assert judge.heard[-1].texts == [f"Hello\n{BAD}"]


async def test_what_is_wrong_is_said_before_anybody_is_asked(client: AsyncOpenAI, judge: Judge) -> None:
    image: Any = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    with pytest.raises(openai.BadRequestError, match="only text is judged") as caught:
        await client.moderations.create(input=image)
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "input[0].type")
    assert judge.heard == []


NAMES = [*typing.get_args(ModerationModel), "text-moderation-007", "p-1", "p-1@0a1b2c3d"]


@pytest.mark.parametrize("name", NAMES)
async def test_openai_s_names_stand_for_the_policy_and_so_do_its_own(
    mesh: Mesh, client: AsyncOpenAI, name: str
) -> None:
    mesh.cluster.apply(policy_beat(), 1000)
    assert (await client.moderations.create(input="Hello", model=name)).model == "p-1@0a1b2c3d"
    response = await client.responses.create(model=MODEL, input="Hello", moderation={"model": name})
    assert mesh.requests[-1].spec.moderation == ModerationWish(model=name)
    assert response.moderation is not None


@pytest.mark.parametrize("name", ["gpt-5", "", "omni", "p-1@ffffffff", "p-2", "xomni-moderation-latest"])
async def test_a_model_that_is_not_the_server_s_is_not_found(
    mesh: Mesh, client: AsyncOpenAI, judge: Judge, name: str
) -> None:
    mesh.cluster.apply(policy_beat(), 1000)
    calls: list[tuple[Any, str]] = [
        (client.moderations.create(input="Hello", model=name), "model"),
        (client.responses.create(model=MODEL, input="Hello", moderation={"model": name}), "moderation.model"),
        (
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hello"}], moderation={"model": name}
            ),
            "moderation.model",
        ),
    ]
    for call, param in calls:
        with pytest.raises(openai.NotFoundError, match="'omni-moderation-latest' or 'p-1' or 'p-1@0a1b2c3d'") as caught:
            await call
        assert (caught.value.code, caught.value.param) == ("model_not_found", param)
    assert judge.heard == [] and mesh.requests == []


def policy_beat() -> Heartbeat:
    """What an owner says of itself since it has a policy."""
    return Heartbeat(
        service="moderation", id="o", state="ready", seq=2, model="p-1", revision="p-1@0a1b2c3d",
        partitions=list(range(PARTITIONS)),
    )  # fmt: skip


async def test_nobody_asks_without_a_key(mesh: Mesh, judge: Judge) -> None:
    async with AsyncOpenAI(base_url=mesh.url, api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.moderations.create(input="Hello")
    assert judge.heard == []


@pytest.mark.parametrize(
    ("reply", "status", "code", "words"),
    [
        (rejecting(503, "moderation_unavailable", "the encoder failed"), 503, "moderation_unavailable", "encoder"),
        (rejecting(500, "server_error", "broken"), 500, "server_error", "broken"),
        (lambda query: answer(query, []), 500, "server_error", "judged 0 of 1"),
    ],
)
async def test_what_moderation_cannot_do_is_told(
    client: AsyncOpenAI, judge: Judge, reply: Callable[[Moderate], Any], status: int, code: str, words: str
) -> None:
    judge.reply = reply
    with pytest.raises(openai.InternalServerError, match=words) as caught:
        await client.moderations.create(input="Hello")
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, "server_error")
    assert ("retry-after" in caught.value.response.headers) == (status == 503)


async def test_silence_is_503_at_the_deadline(client: AsyncOpenAI, judge: Judge) -> None:
    judge.silent = True
    async with asyncio.timeout(5):
        with pytest.raises(openai.InternalServerError, match=r"did not answer within 0.5 s") as caught:
            await client.moderations.create(input="Hello")
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")


async def test_without_a_moderation_service_it_is_503_at_once() -> None:
    judge = Judge()
    async with gateway(Mesh(on_query=judge, cluster=Cluster(1000))) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="No moderation service is ready") as caught:
            await client.moderations.create(input="Hello")
    assert caught.value.status_code == 503
    assert judge.heard == []


async def test_more_than_can_wait_are_429_and_places_are_given_back(judge: Judge) -> None:
    judge.silent = True
    options = {"max_moderations": 2, "moderation_timeout_s": 1.5}
    async with gateway(Mesh(on_query=judge), **options) as mesh, mesh.client() as client:
        waiting = [asyncio.create_task(client.moderations.create(input="Hello")) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(judge.heard) < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(openai.RateLimitError, match="2 questions to moderation wait") as caught:
            await client.moderations.create(input="Hello")
        assert caught.value.response.headers["retry-after"] == "1"
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, openai.InternalServerError) for outcome in outcomes)
        judge.silent = False
        assert (await client.moderations.create(input="Hello")).results


async def test_it_counts_as_a_request_of_no_tokens() -> None:
    limits = RateLimits({"default": Limits(2, 10)})
    async with gateway(Mesh(on_query=Judge()), keys=True, limits=limits) as mesh, mesh.client() as client:
        for left in ("1", "0"):
            raw = await client.moderations.with_raw_response.create(input="many words " * 100)
            assert raw.headers["x-ratelimit-remaining-requests"] == left
            assert raw.headers["x-ratelimit-remaining-tokens"] == "10"
        with pytest.raises(openai.RateLimitError):
            await client.moderations.create(input="Hello")


async def test_a_repeated_key_has_the_same_name_and_another_body_is_refused(mesh: Mesh, judge: Judge) -> None:
    async def post(text: str, key: str = "k") -> httpx.Response:
        headers = {"authorization": "Bearer sk-a", "idempotency-key": key}
        async with httpx.AsyncClient() as http:
            return await http.post(f"{mesh.url}/moderations", json={"input": text}, headers=headers)

    first, again = await post("Hello"), await post("Hello")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert (await post("Bye")).status_code == 422
    other = await post("Hello", key="other")
    assert other.json()["id"] != first.json()["id"]


async def test_a_key_whose_question_was_not_answered_goes_on_with_its_name(mesh: Mesh, judge: Judge) -> None:
    judge.silent = True
    headers = {"authorization": "Bearer sk-a", "idempotency-key": "k"}
    async with httpx.AsyncClient(headers=headers) as http:
        assert (await http.post(f"{mesh.url}/moderations", json={"input": "Hello"})).status_code == 503
        judge.silent = False
        second = await http.post(f"{mesh.url}/moderations", json={"input": "Hello"})
        third = await http.post(f"{mesh.url}/moderations", json={"input": "Hello"})
    assert second.status_code == 200
    assert second.json()["id"] == third.json()["id"]


async def test_a_client_that_leaves_is_not_answered(judge: Judge) -> None:
    judge.silent = True
    async with gateway(Mesh(on_query=judge), moderation_timeout_s=60) as mesh, httpx.AsyncClient() as http:
        asking = asyncio.create_task(http.post(f"{mesh.url}/moderations", json={"input": "Hello"}))
        async with asyncio.timeout(5):
            while not judge.heard:
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(5):
            while mesh.replies._waiting:
                await asyncio.sleep(0.01)
    assert len(judge.heard) == 1
