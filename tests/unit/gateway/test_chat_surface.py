"""Chat Completions through a real socket and the official SDK, over a mesh in memory."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from shared.records import Cancel, Cancelled, Deleted, Failed, Incomplete, Rejected, Requested
from tests.unit.gateway.harness import MODEL, Mesh, accept, gateway, log_of, only_accept, say

ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}]}


@asynccontextmanager
async def strict(mesh: Mesh, **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    """A client that refuses replies which are not of its types."""
    async with (
        gateway(mesh, **settings),
        AsyncOpenAI(
            base_url=mesh.url, api_key="k", max_retries=0, timeout=10, _strict_response_validation=True
        ) as client,
    ):
        yield client


async def lines(mesh: Mesh, **fields: Any) -> list[str]:
    """The stream's `data` lines."""
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{mesh.url}/chat/completions", json={**ASK, "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def numbered(_: Mesh, request: Requested) -> list[Any]:
    """Each choice of a request with a seed says its seed."""
    return say(f"seed {request.spec.sampling.seed}", "!")(_, request)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_json_and_stream_tell_the_same() -> None:
    mesh = Mesh()
    async with strict(mesh) as client:
        whole = await client.chat.completions.create(**ASK)
        assert whole.choices[0].message.content == "Hello world"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (7, 3, 10)
        assert whole.id == "chatcmpl-" + mesh.requests[0].response_id.removeprefix("resp_")
        chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **ASK)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello world"
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
        assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
            ("chatcmpl-" + mesh.requests[1].response_id.removeprefix("resp_"), chunks[0].created, MODEL)
        }
        assert mesh.presence.seen == []


async def test_it_becomes_a_spec_that_is_not_stored() -> None:
    mesh = Mesh()
    async with strict(mesh) as client:
        await client.chat.completions.create(**ASK)
    spec = mesh.requests[0].spec
    assert (spec.store, spec.background, spec.previous_response_id) == (False, False, None)


async def test_usage_comes_last_and_every_other_chunk_says_null() -> None:
    mesh = Mesh()
    async with gateway(mesh):
        *chunks, done = await lines(mesh, stream_options={"include_usage": True})
        assert done == "[DONE]"
        *others, usage = map(json.loads, chunks)
        assert usage["choices"] == []
        assert usage["usage"]["total_tokens"] == 10
        assert all(other["usage"] is None for other in others)
        assert not any("usage" in json.loads(line) for line in (await lines(mesh))[:-1])


async def test_choices_have_seeds_of_their_own_and_share_one_done() -> None:
    mesh = Mesh(numbered)
    async with gateway(mesh):
        *chunks, done = await lines(mesh, n=3, seed=5, stream_options={"include_usage": True})
        assert done == "[DONE]"
        parsed = list(map(json.loads, chunks))
        assert {chunk["id"] for chunk in parsed} == {"chatcmpl-" + mesh.requests[0].response_id.removeprefix("resp_")}
        for index in range(3):
            own = [c["choices"][0] for c in parsed if c["choices"] and c["choices"][0]["index"] == index]
            assert "".join(choice["delta"].get("content", "") for choice in own) == f"seed {5 + index}!"
            assert [choice["finish_reason"] for choice in own] == [None, None, None, "stop"]
        assert parsed[-1]["usage"]["prompt_tokens"] == 7
        assert parsed[-1]["usage"]["completion_tokens"] == 9


async def test_choices_over_json_are_in_order() -> None:
    async with strict(Mesh(numbered)) as client:
        whole = await client.chat.completions.create(n=8, seed=2**63 - 4, **ASK)
        assert [choice.index for choice in whole.choices] == list(range(8))
        said = [choice.message.content for choice in whole.choices]
        assert said == [f"seed {seed}!" for seed in (*range(2**63 - 4, 2**63), *range(-(2**63), -(2**63) + 4))]


async def test_chunks_of_the_choices_interleave_as_they_come() -> None:
    mesh = Mesh(only_accept)
    async with strict(mesh) as client:
        stream = await client.chat.completions.create(stream=True, n=2, **ASK)
        first, second = map(log_of, mesh.requests)
        got: list[tuple[int, str]] = []
        for log, text in ((second, "a"), (first, "b"), (second, "c")):
            mesh.publish([log.delta(0 if text != "c" else 1, text)])
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    got.append((chunk.choices[0].index, chunk.choices[0].delta.content))
                    break
        mesh.publish([second.terminal(text="ac"), first.terminal(text="b")])
        rest = [chunk.choices[0] async for chunk in stream]
        assert got == [(1, "a"), (0, "b"), (1, "c")]
        assert sorted((choice.index, choice.finish_reason) for choice in rest) == [(0, "stop"), (1, "stop")]


@pytest.mark.parametrize(
    ("reason", "finish_reason"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
async def test_what_ended_early_says_why(reason: str, finish_reason: str) -> None:
    mesh = Mesh(say("Half", kind=Incomplete, reason=reason))
    async with strict(mesh) as client:
        whole = await client.chat.completions.create(**ASK)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Half", finish_reason)
        chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **ASK)]
        assert chunks[-1].choices[0].finish_reason == finish_reason


async def test_what_was_cancelled_ends_without_a_finish_reason_over_sse() -> None:
    mesh = Mesh(say("Half", kind=Cancelled))
    async with strict(mesh) as client:
        whole = await client.chat.completions.create(**ASK)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Half", "stop")
        *chunks, done = await lines(mesh)
        assert done == "[DONE]"
        assert [json.loads(chunk)["choices"][0]["finish_reason"] for chunk in chunks] == [None, None]


async def test_what_failed_is_a_500_over_json_and_an_error_over_sse() -> None:
    mesh = Mesh(say("Half", kind=Failed, code="server_error", message="no worker"))
    async with strict(mesh) as client:
        with pytest.raises(openai.InternalServerError, match="no worker") as caught:
            await client.chat.completions.create(**ASK)
        assert (caught.value.status_code, caught.value.code) == (500, "server_error")
        last = (await lines(mesh))[-1]
        error = {"message": "no worker", "type": "server_error", "param": None, "code": "server_error"}
        assert json.loads(last) == {"error": error}
        with pytest.raises(openai.APIError, match="no worker"):
            async for _ in await client.chat.completions.create(stream=True, **ASK):
                pass


def one_fails(mesh: Mesh, request: Requested) -> list[Any]:
    """The second choice fails; the first goes on."""
    if len(mesh.requests) < 2:
        return [accept(request), log_of(request).delta(0, "Hel")]
    return say(kind=Failed, code="server_error", message="no worker")(mesh, request)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_fails_ends_all(stream: bool) -> None:
    mesh = Mesh(one_fails)
    async with strict(mesh) as client:
        first_ends = asyncio.create_task(until(lambda: len(mesh.requests) == 2))
        if stream:
            last = (await lines(mesh, n=2))[-1]
            assert json.loads(last)["error"]["message"] == "no worker"
        else:
            asking = asyncio.create_task(client.chat.completions.create(n=2, **ASK))
            await first_ends
            with pytest.raises(openai.InternalServerError, match="no worker"):
                await asking
        await until(lambda: mesh.presence.seen == [("detached", mesh.requests[0].response_id)])


def refuse(mesh: Mesh, request: Requested, **fields: Any) -> list[Any]:
    answer = {"status": 400, "code": "content_policy_violation", "message": "Refused 'input'.", "param": "input"}
    mesh.replies.deliver(Rejected(gateway="gateway-1", correlation_id=request.response_id, **answer | fields))
    return []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_input_is_an_http_error_in_the_words_of_chat(stream: bool) -> None:
    mesh = Mesh(refuse)
    async with strict(mesh) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(stream=stream, **ASK)
        assert caught.value.code == "content_policy_violation"
        assert caught.value.param == "messages"
        assert "'messages'" in str(caught.value)
        with pytest.raises(openai.BadRequestError) as long:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 100}])
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")


def last_is_refused(mesh: Mesh, request: Requested) -> list[Any]:
    return [accept(request)] if mesh.requests.index(request) < 2 else refuse(mesh, request, code="third")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_is_refused_cancels_the_others(stream: bool) -> None:
    mesh = Mesh(last_is_refused)
    async with strict(mesh) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(stream=stream, n=3, **ASK)
        assert caught.value.code == "third"
        assert sorted(mesh.presence.seen) == sorted(("cancel", r.response_id) for r in mesh.requests[:2])
        assert mesh.admission.in_flight == 0


async def test_choices_take_a_slot_each() -> None:
    mesh = Mesh(only_accept)
    async with strict(mesh, max_in_flight=3) as client:
        stream = await client.chat.completions.create(stream=True, n=2, **ASK)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(n=2, **ASK)
        assert mesh.admission.in_flight == 2
        await stream.close()
        await until(lambda: mesh.admission.in_flight == 0)
        assert {kind for kind, _ in mesh.presence.seen} == {"detached"}
        assert {who for _, who in mesh.presence.seen} == {request.response_id for request in mesh.requests}


async def test_a_completion_is_a_response_to_everybody_else() -> None:
    def cancelled(cancel: Cancel) -> list[Any]:
        request = next(r for r in mesh.requests if r.response_id == cancel.response_id)
        return [log_of(request).terminal(Cancelled, "Hel")]

    mesh = Mesh(only_accept, on_cancel=cancelled)
    async with strict(mesh) as client:
        stream = await client.chat.completions.create(stream=True, store=True, **ASK)
        completion_id = (await anext(aiter(stream))).id
        mesh.publish([log_of(mesh.requests[0]).delta(0, "Hel")])
        assert (await anext(aiter(stream))).choices[0].delta.content == "Hel"
        response = await client.responses.retrieve(completion_id)
        assert (response.id, response.output_text) == (mesh.requests[0].response_id, "Hel")
        resumed = await client.responses.retrieve(completion_id, stream=True, starting_after=1)
        ended = await client.responses.cancel(completion_id)
        assert ended.status == "cancelled"
        assert [chunk async for chunk in stream] == []
        types = [event.type async for event in resumed]
        assert (types[0], types[2], types[-1]) == (
            "response.output_item.added", "response.output_text.delta", "response.failed"
        )  # fmt: skip


async def test_a_completion_can_be_gone_on_from() -> None:
    mesh = Mesh()
    async with strict(mesh) as client:
        first = await client.chat.completions.create(store=True, **ASK)
        parent = mesh.requests[0].response_id
        await client.chat.completions.create(**ASK, extra_body={"previous_response_id": first.id})
        await client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
        assert [request.spec.previous_response_id for request in mesh.requests] == [None, parent, parent]


async def test_one_that_is_deleted_while_it_runs_has_no_end() -> None:
    def deleted(_: Mesh, request: Requested) -> list[Any]:
        return [accept(request), Deleted(response_id=request.response_id, tenant="local")]

    mesh = Mesh(deleted)
    async with strict(mesh) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**ASK)
        assert len(await lines(mesh)) == 1


async def test_a_gateway_that_leaves_breaks_a_stream_off() -> None:
    mesh = Mesh(only_accept)
    async with strict(mesh) as client:
        stream = await client.chat.completions.create(stream=True, n=2, **ASK)
        draining = asyncio.create_task(mesh.drain.run(0.05, asyncio.Event()))
        with pytest.raises(openai.APIConnectionError):
            async for _ in stream:
                pass
        await draining


def flood(_: Mesh, request: Requested) -> list[Any]:
    """20 MB in 200 deltas, more than any socket holds."""
    log, piece = log_of(request), "x" * 100_000
    return [accept(request), *(log.delta(n * len(piece), piece) for n in range(200))]


async def test_a_client_that_does_not_read_is_left_and_all_its_choices_with_it() -> None:
    mesh = Mesh(flood)
    async with gateway(mesh, lag_limit_s=0.3):
        port = int(mesh.url.split(":")[2].split("/")[0])
        body = json.dumps({**ASK, "stream": True, "n": 2}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(head % len(body) + body)
            await until(lambda: len(mesh.presence.seen) == 2)
        assert sorted(mesh.presence.seen) == sorted(("detached", r.response_id) for r in mesh.requests)
        await until(lambda: mesh.admission.in_flight == 0)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "m"}', b'{"model": "m", "messages": "Hi"}'])
async def test_a_malformed_body_gets_a_clear_400(body: bytes) -> None:
    mesh = Mesh()
    async with gateway(mesh), httpx.AsyncClient() as http:
        answer = await http.post(f"{mesh.url}/chat/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert (await http.get(f"{mesh.url}/chat/completions")).status_code == 405
