"""Limits and idempotency keys as clients meet them, over real sockets and a ledger in memory."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
import websockets

from services.gateway.auth import LOCAL_TENANT, Caller
from services.gateway.errors import ApiError
from services.gateway.ledger import Ask, RateLimits, Repeatable
from services.gateway.ledger.limits import Limits
from shared.ids import parse_response_id
from shared.records import Charge, CountInput, Deleted, InputCounted, Outcome, Settlement
from tests.unit.gateway.harness import MODEL, Mesh, gateway, only_accept, say

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello", "max_output_tokens": 8}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 8}
LOCAL = Caller(LOCAL_TENANT)
KEY = {"Idempotency-Key": "order-1"}


def limits(requests: int | None = None, tokens: int | None = None) -> RateLimits:
    return RateLimits({"default": Limits(requests, tokens)})


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_who_has_no_limits_and_no_key_never_touches_the_ledger() -> None:
    async with gateway(Mesh(), limits=RateLimits(tenants={})) as mesh, mesh.client() as client:
        reply = await client.responses.with_raw_response.create(**ASK)
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
        assert mesh.ledger_log.records == []


async def test_every_reply_tells_how_the_caller_stands() -> None:
    async with gateway(Mesh(), limits=limits(3, 100)) as mesh, mesh.client() as client:
        first = await client.responses.with_raw_response.create(**ASK)
        assert first.headers["x-ratelimit-limit-requests"] == "3"
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert first.headers["x-ratelimit-limit-tokens"] == "100"
        # Two of the prompt and eight of the answer are charged; the response used ten in all (the harness's usage).
        assert first.headers["x-ratelimit-remaining-tokens"] == "90"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        async with httpx.AsyncClient() as http:
            for url in (f"{mesh.url}/models", f"{mesh.url}/responses/resp_none"):
                assert (await http.get(url)).headers["x-ratelimit-remaining-requests"] == "2"
            wrong = await http.post(f"{mesh.url}/responses", json={"model": MODEL})
            assert (wrong.status_code, wrong.headers["x-ratelimit-limit-requests"]) == (400, "3")
            assert wrong.headers["openai-version"] == "2020-10-01"


async def test_above_the_limit_it_is_429_over_every_transport() -> None:
    async with gateway(Mesh(), limits=limits(2)) as mesh, mesh.client() as client:
        await client.responses.create(**ASK)
        await client.chat.completions.create(**CHAT)
        for ask in (client.responses.create(**ASK), client.chat.completions.create(stream=True, **CHAT)):
            with pytest.raises(openai.RateLimitError) as caught:
                await ask
            assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
            headers = caught.value.response.headers
            assert 50_000 < int(headers["retry-after-ms"]) <= 60_000
            assert headers["x-ratelimit-remaining-requests"] == "0"
        async with websockets.connect(mesh.url.replace("http", "ws") + "/responses") as ws:
            await ws.send(json.dumps({"type": "response.create", **ASK}))
            event = json.loads(await ws.recv())
            assert (event["type"], event["status"]) == ("error", 429)
            assert event["error"]["headers"]["x-ratelimit-remaining-requests"] == "0"
            assert int(event["error"]["headers"]["retry-after-ms"]) > 50_000
            await ws.send("{}")
            event = json.loads(await ws.recv())
            assert (event["status"], event["error"]["headers"]["x-ratelimit-limit-requests"]) == (400, "2")
        # The gateway knew: what was refused never came to the log.
        assert len(mesh.writer.of(Charge)) == 2


async def test_tokens_are_charged_at_their_most_and_settled_at_their_end() -> None:
    mesh = Mesh(say("Hello", " world"))
    async with gateway(mesh, limits=limits(tokens=100)) as mesh, mesh.client() as client:
        reply = await client.responses.create(model=MODEL, input="Say hello", max_output_tokens=40)
        assert [charge.tokens for charge in mesh.writer.of(Charge)] == [42]
        await until(lambda: mesh.writer.of(Settlement))
        (settled,) = mesh.writer.of(Settlement)
        assert reply.usage is not None and settled.tokens == reply.usage.total_tokens
        with pytest.raises(openai.RateLimitError, match="Requested 124"):  # two choices of the window's 62
            await client.chat.completions.create(n=2, model=MODEL, messages=CHAT["messages"], max_tokens=60)
        with pytest.raises(openai.RateLimitError, match="max_output_tokens"):
            await client.chat.completions.create(n=2, model=MODEL, messages=CHAT["messages"])


@pytest.mark.parametrize(
    ("counted", "fields", "charged"),
    [
        (20, {}, 28),
        (20, {"max_output_tokens": None}, 64),
        (60, {}, 64),
        (70, {"truncation": "auto"}, 64),  # history will leave out turns until it fits
    ],
)
async def test_stored_context_is_charged_as_history_counts_it(
    counted: int, fields: dict[str, Any], charged: int
) -> None:
    def history(query: Any) -> InputCounted:
        return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=counted)

    async with gateway(Mesh(on_query=history), limits=limits(tokens=1000)) as mesh, mesh.client() as client:
        parent = await client.responses.create(**ASK)
        await client.responses.create(**{**ASK, **fields}, previous_response_id=parent.id)
        assert [charge.tokens for charge in mesh.writer.of(Charge)] == [10, charged]
        (asked,) = mesh.writer.of(CountInput)
        assert (asked.spec.previous_response_id, asked.spec.truncation) == (parent.id, "disabled")


async def test_what_one_socket_remembers_is_charged_with_what_history_tells_before_it() -> None:
    def history(query: Any) -> InputCounted:
        tokens = 20 + sum(len(message.text.split()) for message in query.spec.input)
        return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=tokens)

    async with gateway(Mesh(on_query=history), limits=limits(tokens=1000)) as mesh, mesh.client() as client:
        stored = await client.responses.create(**ASK)
        async with websockets.connect(mesh.url.replace("http", "ws") + "/responses") as ws:
            parent = stored.id
            for _ in range(2):
                ask = {"type": "response.create", **ASK, "store": False, "previous_response_id": parent}
                await ws.send(json.dumps(ask))
                while (event := json.loads(await ws.recv()))["type"] != "response.completed":
                    assert event["type"] != "error", event
                parent = event["response"]["id"]
        # "Say hello" and its answer, "Hello world", are what the socket remembers of the first.
        assert [charge.tokens for charge in mesh.writer.of(Charge)] == [10, 20 + 2 + 8, 20 + 2 + 2 + 2 + 8]
        assert {asked.spec.previous_response_id for asked in mesh.writer.of(CountInput)} == {stored.id}


async def test_whose_tokens_are_not_limited_waits_for_no_count() -> None:
    async with gateway(Mesh(), limits=limits(100)) as mesh, mesh.client() as client:
        parent = await client.responses.create(**ASK)
        await client.responses.create(previous_response_id=parent.id, **ASK)
        assert mesh.writer.of(CountInput) == []


async def test_a_log_that_does_not_decide_is_a_503() -> None:
    mesh = Mesh()
    async with gateway(mesh, limits=limits(5), ledger_timeout_s=0.05) as mesh, mesh.client() as client:
        late: list[Any] = []
        mesh.ledger_log.append, keep = late.append, mesh.ledger_log.append  # type: ignore[method-assign]
        with pytest.raises(openai.InternalServerError) as caught:
            await client.responses.create(**ASK)
        assert caught.value.status_code == 503
        assert "retry-after" in caught.value.response.headers
        keep(late[0])
        # Granted by now, and nobody is there to use it: it counts as a request, and nothing more.
        await until(lambda: mesh.ledger.standing(LOCAL).requests == 1)
        assert mesh.requests == []


async def test_garbage_in_the_ledger_stops_nobody() -> None:
    async with gateway(Mesh(), limits=limits(5)) as mesh, mesh.client() as client:
        charge = Charge(response_id="resp_x", tenant="local", tier="default", tokens=1)
        for value in (b"{", b"", b'{"type":"brand_new"}', b'{"type":"charge","tenant":3}'):
            mesh.ledger_log.append(charge, value=value)
        assert (await client.responses.create(**ASK)).output_text == "Hello world"


# -- idempotency keys ------------------------------------------------------------------------------------------------


async def test_a_repeated_request_gets_the_first_response_however_it_travels() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        first = await client.responses.create(extra_headers=KEY, **ASK)
        again = await client.responses.create(extra_headers=KEY, **ASK)
        assert again.to_dict() == first.to_dict()
        streamed = [event async for event in await client.responses.create(stream=True, extra_headers=KEY, **ASK)]
        assert streamed[0].sequence_number == 0
        assert streamed[-1].response.to_dict() == first.to_dict()
        assert len(mesh.requests) == 1
        other = await client.responses.create(extra_headers={"Idempotency-Key": "order-2"}, **ASK)
        assert other.id != first.id
        assert [outcome.accepted for outcome in mesh.writer.of(Outcome)] == [True, True]


async def test_a_completion_with_choices_is_repeated_as_a_whole() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        first = await client.chat.completions.create(n=3, extra_headers=KEY, **CHAT)
        again = await client.chat.completions.create(n=3, extra_headers=KEY, **CHAT)
        assert again.to_dict() == first.to_dict()
        chunks = [c async for c in await client.chat.completions.create(n=3, stream=True, extra_headers=KEY, **CHAT)]
        assert {chunk.id for chunk in chunks} == {first.id}
        assert len(mesh.requests) == 3


async def test_two_that_come_at_once_are_one() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        asking = [asyncio.create_task(client.responses.create(extra_headers=KEY, **ASK)) for _ in range(8)]
        await until(lambda: mesh.requests and mesh.admission.in_flight == 8)
        mesh.publish(say("Hello")(mesh, mesh.requests[0])[1:])
        answers = await asyncio.gather(*asking)
        assert len({answer.id for answer in answers}) == 1
        assert {answer.output_text for answer in answers} == {"Hello"}
        assert len(mesh.requests) == 1


async def test_another_body_or_path_under_the_same_key_is_422() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        await client.responses.create(extra_headers=KEY, **ASK)
        for ask in (
            client.responses.create(extra_headers=KEY, **{**ASK, "input": "Say bye"}),
            client.chat.completions.create(extra_headers=KEY, **CHAT),
        ):
            with pytest.raises(openai.UnprocessableEntityError) as caught:
                await ask
            assert caught.value.code == "idempotency_key_reused"


async def test_keys_belong_to_their_tenant() -> None:
    async with gateway(Mesh(), keys=True) as mesh, mesh.client("sk-a") as acme, mesh.client("sk-b") as beta:
        first = await acme.responses.create(extra_headers=KEY, **ASK)
        other = await beta.responses.create(extra_headers=KEY, **ASK)
        assert first.id != other.id
        charges = mesh.writer.of(Charge)
        assert len({charge.idempotency_key for charge in charges}) == 2
        assert all("order-1" not in charge.idempotency_key for charge in charges)


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
async def test_a_key_that_cannot_be_is_400(key: str) -> None:
    async with gateway(Mesh()) as mesh, httpx.AsyncClient() as http:
        headers = {"Idempotency-Key": key.encode()}
        answer = await http.post(f"{mesh.url}/responses", json=ASK, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_what_came_to_nothing_frees_its_key() -> None:
    def silent(_: Mesh, __: Any) -> list[Any]:
        return []

    async with gateway(Mesh(silent), deadline_s=0.5, limits=limits(tokens=64)) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="deadline"):
            await client.responses.create(extra_headers=KEY, **ASK)
        assert [outcome.accepted for outcome in mesh.writer.of(Outcome)] == [False]
        assert [settled.tokens for settled in mesh.writer.of(Settlement)] == [0]
        mesh.script = say("Hello")
        assert (await client.responses.create(extra_headers=KEY, **ASK)).output_text == "Hello"
        assert len(mesh.requests) == 2


async def test_a_client_that_left_finds_its_response_when_it_comes_again() -> None:
    """Also if it left before anything was accepted: a request with a key goes on without it."""
    async with gateway(Mesh(lambda *_: [])) as mesh, mesh.client() as client:
        asking = asyncio.create_task(client.responses.create(extra_headers=KEY, **ASK))
        await until(lambda: mesh.requests)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: mesh.admission.in_flight == 0)
        again = asyncio.create_task(client.responses.create(extra_headers=KEY, **ASK))
        await until(lambda: mesh.admission.in_flight == 1)
        mesh.publish(say("Hello")(mesh, mesh.requests[0]))
        assert (await again).output_text == "Hello"
        assert len(mesh.requests) == 1


async def test_a_key_of_a_dead_gateway_is_used_anew_and_what_it_left_is_cancelled() -> None:
    async with gateway(Mesh(), silent_after_s=0.05) as mesh, mesh.client() as client:
        await client.responses.create(extra_headers=KEY, **ASK)
        (charge,) = mesh.writer.of(Charge)
        lost = type(charge)(
            **{name: getattr(charge, name) for name in charge.__struct_fields__ if name not in _ITS_OWN},
            response_id="resp_01a1fdc469067001b7e8a2c8c65ddcda",
            idempotency_key="0" * 32,
            gateway="gateway-dead",
        )
        mesh.ledger_log.append(lost)
        await until(lambda: mesh.ledger.known(LOCAL, _repeatable(charge)) is not None)
        holder = mesh.ledger.known(LOCAL, _repeatable(charge)).holder
        repeats = mesh.repeats
        assert holder.first == lost.response_id
        assert await repeats.follow(holder, 5) is None
        assert [record.response_id for _, record in mesh.writer.appended if type(record).__name__ == "Cancel"] == [
            lost.response_id
        ]


_ITS_OWN = {"response_id", "idempotency_key", "gateway"}


def _repeatable(charge: Charge) -> Repeatable:
    return Repeatable("0" * 32, charge.fingerprint or "")


async def test_homes_may_move_while_the_ledger_decides() -> None:
    mesh = Mesh()
    async with gateway(mesh, limits=limits(5)) as mesh, mesh.client() as client:
        held: list[Any] = []
        mesh.ledger_log.append, keep = held.append, mesh.ledger_log.append  # type: ignore[method-assign]
        asking = asyncio.create_task(client.responses.create(**ASK))
        await until(lambda: held)
        partition = parse_response_id(held[0].response_id).partition
        others = (f"gateway-{number}" for number in range(2, 100))
        while partition in mesh.fanout.home:
            await mesh.fanout.rehome(["gateway-1", next(others)])
        keep(held[0])
        assert (await asking).output_text == "Hello world"


async def test_a_deleted_response_is_not_told_again() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        first = await client.responses.create(extra_headers=KEY, **ASK)
        mesh.publish([Deleted(response_id=first.id, tenant=LOCAL_TENANT)])
        with pytest.raises(openai.ConflictError) as caught:
            await client.responses.create(extra_headers=KEY, **ASK)
        assert first.id in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"


async def test_who_comes_again_waits_no_longer_than_the_first_may_take() -> None:
    async with gateway(Mesh(lambda *_: []), silent_after_s=30) as mesh:
        asked = Ask(LOCAL, ("resp_01a1fdc469067001b7e8a2c8c65ddcda",), 1, Repeatable("0" * 32, "f"))
        await mesh.ledger.charge(asked)
        holder = mesh.ledger.known(LOCAL, Repeatable("0" * 32, "f")).holder
        with pytest.raises(ApiError) as caught:
            await mesh.repeats.follow(holder, 0.05)
        assert (caught.value.status, caught.value.code) == (409, "idempotency_key_in_use")
        assert caught.value.headers["retry-after"] == "1"


async def test_what_a_gateway_did_not_live_to_say_the_log_says() -> None:
    """The first gateway died behind `accepted`: the response is followed, not made anew."""
    async with gateway(Mesh(), silent_after_s=0.05) as mesh, mesh.client() as client:
        first = await client.responses.create(**ASK)
        asked = Ask(LOCAL, (first.id,), 1, Repeatable("0" * 32, "f"))
        await mesh.ledger.charge(asked)
        holder = mesh.ledger.known(LOCAL, Repeatable("0" * 32, "f")).holder
        assert holder.accepted is None
        (lease,) = await mesh.repeats.follow(holder, 5)
        with lease:
            assert lease.stream.fold.terminal.text == "Hello world"
