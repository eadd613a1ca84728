"""The main job: the unmodified SDK talks to a real model through a real broker, over every transport."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from shared.chat import load_chat_tokenizer
from shared.records import Requested, Tokens
from tests.integration.conftest import MODEL
from tests.support.logs import events_of, journal_of
from tests.support.mesh import Mesh

PAGE_TOKENS = 16  # of the engine's cache (TransformersSettings); torch is not loaded to learn it
QUESTION = "What is the capital of France?"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 64}
any_broker = pytest.mark.any_broker
"""For what the engine's cache, batches and limits do, and what a gateway refuses by itself. A real model takes its
time, and the tests beside these show on every broker which way records go."""
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def over_json(client: AsyncOpenAI) -> str:
    response = await client.responses.create(input=QUESTION, **GREEDY)
    assert response.status == "completed"
    return response.output_text


async def over_sse(client: AsyncOpenAI) -> str:
    text, types, numbers = "", [], []
    async for event in await client.responses.create(input=QUESTION, stream=True, **GREEDY):
        types.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.completed":
            assert event.response.output_text == text
    assert list(dict.fromkeys(types)) == ORDER
    assert numbers == list(range(len(numbers)))
    return text


async def over_websocket(client: AsyncOpenAI) -> str:
    text, types = "", []
    async with client.responses.connect() as connection:
        await connection.response.create(input=QUESTION, **GREEDY)
        async for event in connection:
            types.append(event.type)
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type in ("response.completed", "response.failed", "error"):
                break
    assert list(dict.fromkeys(types)) == ORDER
    return text


async def test_the_same_answer_over_websocket_sse_and_json(client: AsyncOpenAI) -> None:
    answers = [await over_websocket(client), await over_sse(client), await over_json(client)]
    assert "Paris" in answers[0]
    assert len(set(answers)) == 1


async def test_the_second_turn_contains_the_first_token_for_token(client: AsyncOpenAI, real_mesh: Mesh) -> None:
    first = await client.responses.create(input=QUESTION, **GREEDY)
    second = await client.responses.create(input="And of Italy?", previous_response_id=first.id, **GREEDY)
    assert second.previous_response_id == first.id
    tokenizer = load_chat_tokenizer("")
    turn_one = await rendered(tokenizer, real_mesh, first.id)
    turn_two = await rendered(tokenizer, real_mesh, second.id)
    said = [i for r in await journal_of(real_mesh, first.id) if isinstance(r, Tokens) for i in r.ids]
    assert turn_two[: len(turn_one) + len(said)] == turn_one + said
    assert second.usage is not None
    assert second.usage.input_tokens == len(turn_two)


async def rendered(tokenizer: Any, mesh: Mesh, response_id: str) -> list[int]:
    requested = next(r for r in await journal_of(mesh, response_id) if isinstance(r, Requested))
    ids: list[int] = tokenizer.encode([{"role": m.role, "content": m.text} for m in requested.prompt()])
    return ids


@any_broker
@pytest.mark.parametrize("kept_in", ["chain", "conversation"])
async def test_an_immediate_next_turn_has_all_turns_before_it_and_finds_them_in_the_prefix_cache(
    client: AsyncOpenAI, kept_in: str
) -> None:
    """Whole pages of the prefix, that is: all that was read for the turn before, but for the last page."""
    past: dict[str, Any] = {"conversation": (await client.conversations.create()).id} if kept_in != "chain" else {}
    before = 0
    for turn in range(3):
        response = await client.responses.create(
            input=f"In a {kept_in}, say the number {turn}.", **GREEDY | past | {"max_output_tokens": 16}
        )
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens > before - PAGE_TOKENS
        assert response.usage.input_tokens > before
        before = response.usage.input_tokens
        past = past if kept_in == "conversation" else {"previous_response_id": response.id}
    assert before > 60


@any_broker
async def test_the_token_limit_ends_as_incomplete_with_exact_usage(client: AsyncOpenAI) -> None:
    response = await client.responses.create(input="Count to one hundred.", **GREEDY | {"max_output_tokens": 16})
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 16
    assert response.usage.total_tokens == response.usage.input_tokens + 16


async def test_a_response_can_be_retrieved_and_is_the_same(client: AsyncOpenAI) -> None:
    created = await client.responses.create(
        input=QUESTION, metadata={"team": "atlas"}, instructions="Be brief.", **GREEDY
    )
    fetched = await client.responses.retrieve(created.id)
    assert fetched.model_dump() == created.model_dump()
    assert fetched.metadata == {"team": "atlas"}
    assert fetched.instructions == "Be brief."


@any_broker
async def test_multi_byte_text_arrives_in_whole_characters(client: AsyncOpenAI) -> None:
    deltas = [
        event.delta
        async for event in await client.responses.create(
            input="Repeat exactly: 日本語 😀 naïve", stream=True, **GREEDY | {"max_output_tokens": 40}
        )
        if event.type == "response.output_text.delta"
    ]
    assert "\ufffd" not in "".join(deltas)


@any_broker
async def test_eight_streams_at_once_do_not_mix(client: AsyncOpenAI) -> None:
    words = ["apple", "river", "candle", "violin", "tiger", "bridge", "winter", "pepper"]

    async def ask(word: str) -> str:
        question = f"Repeat this word three times: {word}"
        return (await client.responses.create(input=question, **GREEDY)).output_text.lower()

    answers = await asyncio.gather(*map(ask, words))
    for word, answer in zip(words, answers, strict=True):
        assert word in answer
        assert not any(other in answer for other in words if other != word), answer


async def test_the_public_log_alone_tells_the_whole_response(client: AsyncOpenAI, real_mesh: Mesh) -> None:
    response = await client.responses.create(input=QUESTION, **GREEDY)
    events = await events_of(real_mesh, response.id)
    kinds = [type(event).__name__ for event in events]
    assert (kinds[0], kinds[-1]) == ("Accepted", "Completed")
    assert set(kinds[1:-1]) == {"Delta"}
    assert "".join(event.text for event in events[1:-1]) == events[-1].text == response.output_text


async def test_models_are_listed_from_the_workers_that_live(client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    assert models == [MODEL]


@any_broker
@pytest.mark.parametrize(
    ("change", "error", "code", "words"),
    [
        ({"model": "gpt-none"}, openai.NotFoundError, "model_not_found", ["gpt-none"]),
        ({"input": ""}, openai.BadRequestError, None, ["input"]),
        ({"input": "word " * 20_000}, openai.BadRequestError, "context_length_exceeded", ["8,192"]),
        ({"temperature": 3}, openai.BadRequestError, None, ["temperature"]),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "unknown_parameter", ["colour"]),
        ({"previous_response_id": "resp_nope"}, openai.BadRequestError, "previous_response_not_found", ["resp_nope"]),
        (
            {"previous_response_id": "resp_019c0f3a7b1070018a5f3c2e1d4b6a98"},
            openai.BadRequestError,
            "previous_response_not_found",
            ["resp_019c0f3a7b1070018a5f3c2e1d4b6a98"],
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_request_gets_a_clear_error(
    client: AsyncOpenAI,
    change: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    words: list[str],
    stream: bool,
) -> None:
    with pytest.raises(error) as caught:
        await client.responses.create(**{"input": "Hi", **GREEDY, **change}, stream=stream)
    body = caught.value.body
    assert isinstance(body, dict)
    assert body.keys() >= {"message", "type", "param", "code"}
    assert code is None or body["code"] == code
    assert all(word in body["message"] for word in words)


@any_broker
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b'"text"', b"null", b"", b'{"model": 1e999}'])
async def test_a_malformed_body_gets_a_clear_400(real_mesh: Mesh, body: bytes) -> None:
    async with httpx.AsyncClient(base_url=real_mesh.url) as http:
        answer = await http.post("/responses", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]


@any_broker
async def test_an_oversized_body_is_413_and_an_unknown_response_404(real_mesh: Mesh, client: AsyncOpenAI) -> None:
    async with httpx.AsyncClient(base_url=real_mesh.url) as http:
        answer = await http.post("/responses", content=b'{"input":"' + b"x" * (1 << 20) + b'"}')
    assert answer.status_code == 413
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("resp_019c0f3a7b1070018a5f3c2e1d4b6a98")
