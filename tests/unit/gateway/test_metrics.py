"""What a gateway measures, held against what its clients saw, through real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import websockets

from services.gateway.errors import ApiError
from services.gateway.meter import MAX_CODES, GatewayMeter
from shared.ids import parse_response_id
from shared.records import Completed, Failed, Requested
from shared.telemetry.metrics import Metrics
from shared.topics import Service
from tests.support.scraping import Samples, of_registry
from tests.unit.gateway.harness import MODEL, Mesh, accept, gateway, log_of, only_accept, say

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}
DURATION = "http_server_request_duration_seconds_count"
FIRST_TOKEN = "chatmesh_response_time_to_first_token_seconds"
PER_TOKEN = "chatmesh_response_time_per_output_token_seconds"
REFUSED = "chatmesh_requests_refused_total"
ACTIVE = "chatmesh_active_streams"
TIMEOUT_S = 5.0
OUTPUT_TOKENS = 3
"""As `Log.terminal` says."""


def shown(mesh: Mesh) -> Samples:
    return of_registry(mesh.metrics.registry)


def requests(mesh: Mesh) -> dict[tuple[str, ...], float]:
    return shown(mesh).by(DURATION, "http_request_method", "http_route", "http_response_status_code")


async def until(mesh: Mesh, name: str, value: float, **labels: str) -> None:
    """The gateway notices a moment later than its client that something is over."""
    async with asyncio.timeout(TIMEOUT_S):
        while shown(mesh).total(name, **labels) != value:
            await asyncio.sleep(0.005)


def ws_url(mesh: Mesh, query: str = "") -> str:
    return mesh.url.replace("http", "ws") + "/responses" + query


async def read_to_end(ws: Any) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while json.loads(await ws.recv())["type"] not in ("response.completed", "error"):
            pass


# -- requests ------------------------------------------------------------------------------------------------


async def test_requests_count_by_template_and_what_clients_make_up_is_no_label() -> None:
    async with gateway(Mesh(say("Hi"))) as mesh, mesh.client() as client, httpx.AsyncClient() as raw:
        response = await client.responses.create(**ASK)
        await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_unknown")
        await raw.get(f"{mesh.url}/nothing/{response.id}")
        for probe in ("/healthz", "/readyz"):  # not measured: a balancer's would hide what users get
            assert (await raw.get(mesh.url.removesuffix("/v1") + probe)).status_code == 200
        await raw.request("BREW", f"{mesh.url}/models")
        await raw.put(f"{mesh.url}/models")
        await until(mesh, DURATION, 6)
        assert requests(mesh) == {
            ("POST", "/v1/responses", "200"): 1,
            ("GET", "/v1/responses/{response_id}", "200"): 1,
            ("GET", "/v1/responses/{response_id}", "404"): 1,
            ("GET", "unknown", "404"): 1,
            ("_OTHER", "/v1/models", "405"): 1,
            ("PUT", "/v1/models", "405"): 1,
        }


async def test_a_bug_counts_as_500(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(Mesh()) as mesh, httpx.AsyncClient() as raw:
        monkeypatch.setattr(mesh.ledger, "standing", lambda *_: 1 / 0)
        monkeypatch.setattr(mesh.admission, "slot", lambda: 1 / 0)
        await raw.post(f"{mesh.url}/responses", json=ASK)
        await until(mesh, DURATION, 1)
        assert requests(mesh) == {("POST", "/v1/responses", "500"): 1}


async def test_refusals_count_by_code_wherever_they_are_told() -> None:
    async with gateway(Mesh(say("Hi")), keys=True) as mesh, httpx.AsyncClient() as raw:
        async with mesh.client("sk-wrong") as stranger, mesh.client() as client:
            with pytest.raises(openai.AuthenticationError):
                await stranger.responses.create(**ASK)
            with pytest.raises(openai.NotFoundError):
                await client.responses.create(model="other", input="Hello")
        await raw.get(f"{mesh.url}/nothing")
        await raw.get(f"{mesh.url}/models", headers={"x-client-request-id": "x" * 600})
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(ws_url(mesh))
        headers = {"authorization": "Bearer sk-a"}
        async with websockets.connect(ws_url(mesh), additional_headers=headers) as ws:
            await ws.send("not JSON")
            await read_to_end(ws)
        found = shown(mesh).by(REFUSED, "code")
        assert found == {
            ("invalid_api_key",): 2,
            ("model_not_found",): 1,
            ("404",): 1,
            ("invalid_value",): 1,
            ("invalid_json",): 1,
        }


def test_codes_are_bounded() -> None:
    metrics = Metrics(Service.GATEWAY)
    meter = GatewayMeter(metrics)
    for number in range(2 * MAX_CODES):
        meter.refused(ApiError(400, "no", code=f"code_{number}"))
    found = of_registry(metrics.registry).by(REFUSED, "code")
    assert len(found) <= MAX_CODES
    assert sum(found.values()) == 2 * MAX_CODES
    assert found[("other",)] > MAX_CODES


# -- streams -------------------------------------------------------------------------------------------------


PIECES = ("Hello", " wor", "ld")
PAUSE_S = 0.1


async def texts(mesh: Mesh, transport: str) -> AsyncIterator[str]:
    """Each piece of the answer as a client reads it."""
    async with mesh.client() as client:
        if transport == "sse":
            async for event in await client.responses.create(stream=True, **ASK):
                if event.type == "response.output_text.delta":
                    yield event.delta
        elif transport == "chat":
            messages: Any = [{"role": "user", "content": "Say hello"}]
            async for chunk in await client.chat.completions.create(model=MODEL, messages=messages, stream=True):
                if chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        else:
            async with websockets.connect(ws_url(mesh)) as ws:
                await ws.send(json.dumps({"type": "response.create", **ASK}))
                while (event := json.loads(await ws.recv()))["type"] != "response.completed":
                    if event["type"] == "response.output_text.delta":
                        yield event["delta"]


@pytest.mark.parametrize("transport", ["sse", "websocket", "chat"])
async def test_times_are_those_that_the_client_sees(transport: str) -> None:
    async with gateway(Mesh(say_first)) as mesh:
        read = ""
        async for text in texts(mesh, transport):
            read += text
            await asyncio.sleep(PAUSE_S)  # the next piece comes so long after this one was read
            log, said = log_of(mesh.requests[0]), len(read)
            rest = "".join(PIECES)[said:]
            piece = next((piece for piece in PIECES if piece and rest.startswith(piece)), None)
            mesh.publish([log.delta(said, piece)] if piece else [log.terminal(Completed, read)])
        await until(mesh, f"{PER_TOKEN}_count", 1)
        found = shown(mesh)
        assert found.by(f"{FIRST_TOKEN}_count", "gen_ai_request_model") == {(MODEL,): 1}
        assert 0 < found.total(f"{FIRST_TOKEN}_sum") < TIMEOUT_S
        behind = len("".join(PIECES[1:])) / len("".join(PIECES))
        between_s = found.total(f"{PER_TOKEN}_sum") * OUTPUT_TOKENS * behind
        assert 0.95 * 2 * PAUSE_S <= between_s < TIMEOUT_S


def say_first(_: Mesh, request: Requested) -> list[Any]:
    return [accept(request), log_of(request).delta(0, PIECES[0])]


async def test_an_answer_that_came_at_once_has_no_time_per_token() -> None:
    async with gateway(Mesh(say("Hello, world"))) as mesh, mesh.client() as client:
        async for _ in await client.responses.create(stream=True, **ASK):
            pass
        await until(mesh, DURATION, 1)
        found = shown(mesh)
        assert (found.total(f"{FIRST_TOKEN}_count"), found.total(f"{PER_TOKEN}_count")) == (1, 0)


async def test_who_waits_for_a_whole_answer_or_comes_later_has_no_first_token() -> None:
    async with gateway(Mesh(say("Hello", " world"))) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        async for _ in await client.responses.retrieve(response.id, stream=True, starting_after=2):
            pass
        assert shown(mesh).total(f"{FIRST_TOKEN}_count") == 0


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_who_repeats_a_request_has_no_first_token(path: str) -> None:
    """What it asked for was begun before it asked."""
    body = {"model": MODEL, "stream": True}
    body |= {"input": "Hi"} if path == "responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    async with gateway(Mesh(say("Hello", " world"))) as mesh, httpx.AsyncClient() as raw:
        for _ in range(2):
            told = await raw.post(f"{mesh.url}/{path}", json=body, headers={"Idempotency-Key": "k"})
            assert "Hello" in told.text
        assert len(mesh.requests) == 1
        await until(mesh, DURATION, 2)
        assert shown(mesh).total(f"{FIRST_TOKEN}_count") == 1


async def test_an_answer_that_failed_before_its_first_word_has_no_times() -> None:
    async with gateway(Mesh(say(kind=Failed, code="server_error", message="no"))) as mesh, mesh.client() as client:
        async for _ in await client.responses.create(stream=True, **ASK):
            pass
        await until(mesh, DURATION, 1)
        assert shown(mesh).total(f"{FIRST_TOKEN}_count") == shown(mesh).total(f"{PER_TOKEN}_count") == 0


async def test_active_streams_are_those_that_are_being_told() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client, websockets.connect(ws_url(mesh)) as ws:
        waiting = asyncio.ensure_future(client.responses.create(**ASK))
        reading = await client.responses.create(stream=True, **ASK)
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        for transport in ("json", "sse", "websocket"):
            await until(mesh, ACTIVE, 1, transport=transport)
        assert mesh.fanout.followed == 3
        for request in mesh.requests:
            mesh.publish([log_of(request).terminal(Completed, "")])
        await waiting
        await reading.close()
        await until(mesh, ACTIVE, 0)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_resume_counts_where_it_is_followed(transport: str) -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        first = await client.responses.create(stream=True, **ASK)
        async with asyncio.timeout(TIMEOUT_S):
            while not mesh.requests or mesh.fanout.find(parse_response_id(mesh.requests[0].response_id)) is None:
                await asyncio.sleep(0.005)
        response_id = mesh.requests[0].response_id
        asyncio.get_running_loop().call_later(0.1, mesh.publish, [log_of(mesh.requests[0]).terminal(Completed, "")])
        if transport == "sse":
            async for _ in await client.responses.retrieve(response_id, stream=True, starting_after=1):
                pass
        else:
            async with websockets.connect(ws_url(mesh, f"?response_id={response_id}&starting_after=1")) as ws:
                await read_to_end(ws)
        await first.close()
        assert shown(mesh).by("chatmesh_stream_resumes_total", "transport") == {(transport,): 1}


async def test_a_resume_that_is_refused_leaves_nothing_and_is_none() -> None:
    async with gateway(Mesh(only_accept), max_in_flight=1) as mesh, mesh.client() as client:
        first = await client.responses.create(stream=True, **ASK)
        response_id = mesh.requests[0].response_id
        stream = mesh.fanout.find(parse_response_id(response_id))
        for _ in range(3):
            with pytest.raises(openai.RateLimitError):
                await client.responses.retrieve(response_id, stream=True, starting_after=1)
        async with websockets.connect(ws_url(mesh, f"?response_id={response_id}&starting_after=1")) as ws:
            await read_to_end(ws)
        await first.close()
        await until(mesh, ACTIVE, 0)
        assert (stream.readers, mesh.fanout.followed, mesh.admission.in_flight) == (0, 0, 0)
        assert mesh.presence.seen[-1][0] == "detached"
        assert shown(mesh).total("chatmesh_stream_resumes_total") == 0


def flood(_: Mesh, request: Requested) -> list[Any]:
    """20 MB in 200 deltas, more than any socket holds."""
    log, piece = log_of(request), "x" * 100_000
    return [accept(request), *(log.delta(n * len(piece), piece) for n in range(200))]


async def test_a_client_that_lags_is_an_eviction() -> None:
    async with gateway(Mesh(flood), lag_limit_s=0.3) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        await until(mesh, "chatmesh_stream_evictions_total", 1, transport="websocket")
        with pytest.raises(websockets.ConnectionClosed):
            while True:  # who reads on hears at once that it was left; else the gateway waits for its farewell
                await ws.recv()


async def test_a_client_that_left_early_was_not_told_all() -> None:
    async with gateway(Mesh(say_first)) as mesh, mesh.client() as client:
        stream = await client.responses.create(stream=True, **ASK)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await until(mesh, ACTIVE, 0)
        assert shown(mesh).total(f"{FIRST_TOKEN}_count") == 1
        assert shown(mesh).total(f"{PER_TOKEN}_count") == 0
