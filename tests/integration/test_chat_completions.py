"""Chat Completions over a broker, with the unmodified SDK and strict validation; every outcome of DESIGN 9."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import response_id_text
from shared.records import Cancelled, Requested, Terminal
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import events_of, journal_of
from tests.support.mesh import Mesh
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE, TEST_POLICY

pytestmark = pytest.mark.any_broker  # dialects; what the log does to a stream is tested elsewhere

TEXT = "The weather is fine today and the birds sing."
CLEAN = "All is well today, and here is a "
LONG = " ".join(f"word{number}" for number in range(200))
"""At 50 tokens a second it takes longer than DEADLINE_S, several times."""
DEADLINE_S = 4
USAGE = {"stream_options": {"include_usage": True}}


def asked(text: str = TEXT, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def strict(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key="local", max_retries=0, timeout=60, _strict_response_validation=True)


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """The engine says what it is told; the second gateway gives a response DEADLINE_S."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "policy.yaml").write_text(TEST_POLICY)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "50",
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
        "CHATMESH_FOREGROUND_GRACE_S": "1",
    }
    async with Mesh(broker, folder, env=env) as running:
        running.add(Service.GATEWAY, CHATMESH_DEADLINE_S=str(DEADLINE_S))
        await running.wait_ready(service=Service.GATEWAY)
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with strict(mesh.url) as made:
        yield made


@pytest.fixture
async def hurried(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    """A client of the gateway that gives no time."""
    async with strict(mesh.urls()[1]) as made:
        yield made


def said(chunks: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def finishes(chunks: list[Any]) -> dict[int, str]:
    return {choice.index: choice.finish_reason for c in chunks for choice in c.choices if choice.finish_reason}


async def streamed(client: AsyncOpenAI, **fields: Any) -> list[Any]:
    return [chunk async for chunk in await client.chat.completions.create(stream=True, **fields)]


async def test_what_was_cut_is_cut_in_every_choice_and_never_public(client: AsyncOpenAI, mesh: Mesh) -> None:
    text = f"{CLEAN}{CUT_PHRASE} for you, and more of it."
    whole = await client.chat.completions.create(**asked(text))
    assert [(c.message.content, c.finish_reason) for c in whole.choices] == [(CLEAN, "content_filter")]
    chunks = await streamed(client, **asked(text, n=2))
    assert (said(chunks), finishes(chunks)) == (dict.fromkeys((0, 1), CLEAN), dict.fromkeys((0, 1), "content_filter"))
    events = await events_of(mesh, response_id_text(whole.id))
    assert isinstance(events[-1], Terminal)
    assert not any("purple" in getattr(event, "text", "") for event in events)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_input_is_a_400_for_all_choices(client: AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(stream=stream, **asked(f"Where is the {REFUSE_PHRASE}?", n=3))
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "messages")


async def test_choices_say_the_same_side_by_side_and_cost_one_prompt(client: AsyncOpenAI) -> None:
    one = await client.chat.completions.create(**asked(max_tokens=8))
    chunks = await streamed(client, **asked(max_tokens=8, n=3, seed=1), **USAGE)
    text = one.choices[0].message.content
    assert (said(chunks), finishes(chunks)) == (dict.fromkeys(range(3), text), dict.fromkeys(range(3), "length"))
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert one.usage is not None
    assert chunks[-1].usage.prompt_tokens == one.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == 3 * 8
    assert Counter(chunk.usage is None for chunk in chunks)[False] == 1


@pytest.mark.parametrize("stop", [" and", ["birds", "is fine"]])
async def test_an_answer_ends_before_a_stop_string(client: AsyncOpenAI, stop: str | list[str]) -> None:
    first = min(TEXT.index(one) for one in ([stop] if isinstance(stop, str) else stop))
    chunks = await streamed(client, **asked(stop=stop))
    assert (said(chunks), finishes(chunks)) == ({0: TEXT[:first]}, {0: "stop"})


async def test_a_completion_is_read_and_gone_on_from_at_another_gateway(
    client: AsyncOpenAI, hurried: AsyncOpenAI, mesh: Mesh
) -> None:
    first = await client.chat.completions.create(**asked(store=True))
    assert (await hurried.responses.retrieve(first.id)).output_text == TEXT
    second = await hurried.chat.completions.create(**asked("And now?", extra_body={"previous_response_id": first.id}))
    assert second.choices[0].message.content == "And now?"
    (requested,) = [r for r in await journal_of(mesh, response_id_text(second.id)) if isinstance(r, Requested)]
    assert [message.text for message in requested.prompt()] == [TEXT, TEXT, "And now?"]


async def test_a_cancelled_stream_ends_without_a_finish(client: AsyncOpenAI, mesh: Mesh) -> None:
    chunks: list[Any] = []
    async with await client.chat.completions.create(stream=True, **asked(LONG)) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == 3:
                assert (await client.responses.cancel(chunk.id)).status == "cancelled"
    assert finishes(chunks) == {}
    last = (await events_of(mesh, response_id_text(chunks[0].id)))[-1]
    assert isinstance(last, Cancelled)
    assert said(chunks) == {0: last.text}


async def test_a_cancelled_choice_leaves_the_others_alone(client: AsyncOpenAI, mesh: Mesh) -> None:
    chunks: list[Any] = []
    async with await client.chat.completions.create(stream=True, **asked(LONG[:600], n=2), **USAGE) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == 6:
                await client.responses.cancel(chunk.id)
    assert finishes(chunks) == {1: "stop"}
    assert said(chunks)[1] == LONG[:600]
    assert LONG.startswith(said(chunks)[0])
    assert chunks[-1].usage is not None


async def test_one_that_fails_ends_with_an_error_and_without_done(hurried: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="deadline") as caught:
        await hurried.chat.completions.create(**asked(LONG))
    assert (caught.value.status_code, caught.value.code) == (500, "server_error")
    async with httpx.AsyncClient(base_url=str(hurried.base_url), timeout=60) as http:
        answer = await http.post("/chat/completions", json=asked(LONG, stream=True))
    *_, before, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert '"content":' in before
    assert last.startswith('data: {"error":{"message":"The response did not finish within its deadline')


async def test_a_real_answer_is_the_same_whole_streamed_and_as_a_response(real_mesh: Mesh) -> None:
    question = asked("What is the capital of France?", temperature=0, max_tokens=24, store=True, logprobs=True)
    async with strict(real_mesh.url) as client:
        whole = await client.chat.completions.create(**question)
        text, logprobs = whole.choices[0].message.content, whole.choices[0].logprobs
        assert text is not None
        assert "Paris" in text
        assert logprobs is not None
        assert logprobs.content is not None
        assert b"".join(bytes(token.bytes or []) for token in logprobs.content).decode().startswith(text)
        assert said(await streamed(client, **question)) == {0: text}
        assert (await client.responses.retrieve(whole.id)).output_text == text
