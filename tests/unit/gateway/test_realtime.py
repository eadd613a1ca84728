"""The WebSocket's own rules, through real sockets over a mesh in memory."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from openai.types.responses import ResponseSteerFailedEvent
from openai.types.responses.responses_server_event import ResponseWsError

from services.gateway.api.handshake import choose_protocol
from services.gateway.api.lanes import MAX_NAMED_LANES
from services.gateway.settings import GatewaySettings
from shared.ids import new_response_id
from shared.records import ContextRequested, Failed, Rejected, Requested
from tests.unit.gateway.harness import MODEL, Mesh, gateway, log_of, only_accept, say

HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LAST = ("response.completed", "response.incomplete", "response.failed", "response.steer.failed", "error")


def ws_url(mesh: Mesh, query: str = "") -> str:
    return mesh.url.replace("http", "ws") + "/responses" + query


class Client:
    """Reads one socket and keeps what it read by lane."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws

    async def create(self, text: str = "Hi", **fields: Any) -> None:
        event = {"type": "response.create", "model": MODEL, "input": text, **fields}
        await self.ws.send(json.dumps(event, ensure_ascii=False))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            event: dict[str, Any] = json.loads(await self.ws.recv())
        return event

    async def until(self, *types: str) -> dict[str, Any]:
        """The next event of these types; an error that was not asked for fails the test."""
        while (event := await self.next())["type"] not in types:
            assert event["type"] != "error", event
        return event

    async def ask(self, text: str = "Hi", **fields: Any) -> dict[str, Any]:
        """One turn; its last event."""
        await self.create(text, **fields)
        return await self.until(*LAST)

    async def turn(self, text: str = "Hi", **fields: Any) -> str:
        """One turn that completes; the response's id."""
        event = await self.ask(text, **fields)
        assert event["type"] == "response.completed", event
        return str(event["response"]["id"])

    async def closed(self) -> tuple[int, str]:
        with pytest.raises(websockets.ConnectionClosed) as caught:
            async with asyncio.timeout(5):
                while True:
                    await self.ws.recv()
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code, caught.value.rcvd.reason


@contextlib.asynccontextmanager
async def connected(mesh: Mesh, query: str = "", **options: Any) -> AsyncIterator[Client]:
    async with websockets.connect(ws_url(mesh, query), **options) as ws:
        yield Client(ws)


def echo(mesh: Mesh, request: Requested) -> list[Any]:
    """Says what it was asked; "wait" runs until it is published, "fail" fails, no output where none is asked for."""
    text = request.spec.input[-1].text if request.spec.input else ""
    if text == "wait":
        return only_accept(mesh, request)
    if text == "fail":
        return say("no", kind=Failed, code="server_error", message="it broke")(mesh, request)
    return say(*([f"{text}!"] if request.spec.generate else []))(mesh, request)


def unknown_parent(mesh: Mesh) -> None:
    """A history that has nothing."""
    appended = mesh.appended

    def answer(topic: Any, record: Any) -> None:
        if not isinstance(record, ContextRequested):
            appended(topic, record)
            return
        missing = Rejected(
            gateway="gateway-1",
            correlation_id=record.request.response_id,
            status=400,
            code="previous_response_not_found",
            message="not found",
            param="previous_response_id",
        )
        asyncio.get_running_loop().call_soon(mesh.replies.deliver, missing)

    mesh.writer.on_append = answer


def context_of(mesh: Mesh, response_id: str) -> list[tuple[str, str]]:
    request = next(one for one in mesh.requests if one.response_id == response_id)
    return [(message.role, message.text) for message in request.context]


# --- lane memory ---


async def test_a_lane_goes_on_from_what_nobody_stores() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        first = await client.turn("one", store=False)
        second = await client.turn("two", store=False, previous_response_id=first)
        third = await client.turn("three", store=True, previous_response_id=second)
        assert context_of(mesh, third) == [
            ("user", "one"),
            ("assistant", "one!"),
            ("user", "two"),
            ("assistant", "two!"),
        ]
        assert not mesh.writer.of(ContextRequested)


async def test_what_is_stored_is_left_to_history() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        first = await client.turn("one")
        await client.turn("two", previous_response_id=first)
        assert [asked.request.spec.previous_response_id for asked in mesh.writer.of(ContextRequested)] == [first]


async def test_what_is_stored_and_what_is_not_go_on_together() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        stored = await client.turn("one")
        second = await client.turn("two", store=False, previous_response_id=stored)
        third = await client.turn("three", previous_response_id=second)
        await client.turn("four", store=False, previous_response_id=third)
        asked = mesh.writer.of(ContextRequested)
        assert [one.base for one in asked] == [stored, stored, stored]
        assert [one.request.spec.previous_response_id for one in asked] == [stored, second, third]
        said = [[message.text for message in one.request.context] for one in asked]
        assert said == [[], ["two", "two!"], ["two", "two!", "three", "three!"]]


async def test_another_lane_forks_from_the_latest_of_each() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        unknown_parent(mesh)
        first = await client.turn("one", store=False, stream_id="main")
        fork = await client.turn("fork", store=False, stream_id="critic", previous_response_id=first)
        second = await client.turn("two", store=False, stream_id="main", previous_response_id=first)
        assert context_of(mesh, fork) == context_of(mesh, second) == [("user", "one"), ("assistant", "one!")]
        late = await client.ask("late", stream_id="third", previous_response_id=first)
        assert (late["error"]["code"], late["stream_id"]) == ("previous_response_not_found", "third")


async def test_another_connection_knows_nothing_of_it() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client, connected(mesh) as other:
        unknown_parent(mesh)
        first = await client.turn("one", store=False)
        error = await other.ask("two", previous_response_id=first)
        assert error["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("wrong", [{"temperature": 3}, {"model": "x"}, {"tools": [{}]}])
async def test_an_error_evicts_the_parent_that_it_named(wrong: dict[str, Any]) -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        unknown_parent(mesh)
        first = await client.turn("one", store=False)
        fork = await client.ask("fork", stream_id="other", previous_response_id=first, **wrong)
        assert fork["status"] in (400, 404)
        second = await client.turn("two", store=False, previous_response_id=first)  # a fork's error keeps it
        error = await client.ask("three", previous_response_id=second, **wrong)
        assert error["status"] in (400, 404)
        again = await client.ask("three", previous_response_id=second)
        assert again["error"]["code"] == "previous_response_not_found"


async def test_a_response_that_fails_leaves_its_lane_nothing() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        unknown_parent(mesh)
        first = await client.turn("one", store=False)
        failed = await client.ask("fail", store=False, previous_response_id=first)
        for parent in (first, failed["response"]["id"]):
            error = await client.ask("two", previous_response_id=parent)
            assert error["error"]["code"] == "previous_response_not_found"


async def test_a_warm_up_says_nothing_and_is_gone_on_from() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        await client.create("be kind", store=False, generate=False)
        types = [(await client.next())["type"] for _ in range(3)]
        assert types == ["response.created", "response.in_progress", "response.completed"]
        warm = mesh.requests[0].response_id
        second = await client.turn("two", store=False, previous_response_id=warm)
        assert context_of(mesh, second) == [("user", "be kind")]


@pytest.mark.parametrize("nothing", [{}, {"input": []}, {"input": ""}])
async def test_a_warm_up_needs_no_input(nothing: dict[str, Any]) -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        bare = {"type": "response.create", "model": MODEL, "instructions": "be kind", "store": False}
        await client.ws.send(json.dumps({**bare, "generate": False, **nothing}))
        done = await client.until("response.completed")
        assert done["response"]["output"] == []
        assert await client.turn("two", store=False, previous_response_id=done["response"]["id"])
        await client.ws.send(json.dumps({**bare, **nothing}))
        assert (await client.until("error"))["error"]["param"] == "input"


async def test_what_does_not_fit_is_forgotten() -> None:
    async with gateway(Mesh(echo), lane_memory_bytes=600) as mesh, connected(mesh) as client:
        unknown_parent(mesh)
        first = await client.turn("one", store=False)
        large = await client.turn("x" * 600, store=False, previous_response_id=first)
        assert (await client.ask("two", previous_response_id=large))["error"]["code"] == "previous_response_not_found"


# --- requests and events ---


async def test_errors_are_told_in_their_lanes_turn() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        await client.create("wait", stream_id="a")
        await client.until("response.in_progress")
        await client.create("wrong", stream_id="a", temperature=5)
        await client.create("right", stream_id="b")
        assert (await client.until("response.completed"))["stream_id"] == "b"
        mesh.publish([log_of(mesh.requests[0]).terminal(text="")])
        assert (await client.until("response.completed"))["stream_id"] == "a"
        assert (await client.until("error"))["stream_id"] == "a"


WRONG_MESSAGES: list[tuple[str | bytes, int, str, str | None, str | None]] = [
    ("", 400, "invalid_json", None, None),
    ("{", 400, "invalid_json", None, None),
    ("nonsense", 400, "invalid_json", None, None),
    ("[]", 400, "invalid_type", None, None),
    ("null", 400, "invalid_type", None, None),
    ('"text"', 400, "invalid_type", None, None),
    ("[" * 100_000, 400, "invalid_json", None, None),
    (b'{"type": "response.create"}', 400, "unsupported_frame", None, None),
    ("{}", 400, "missing_required_parameter", "type", None),
    ('{"type": null}', 400, "missing_required_parameter", "type", None),
    ('{"type": 7}', 400, "invalid_value", "type", None),
    ('{"type": "response.cancel", "stream_id": "a"}', 400, "invalid_value", "type", "a"),
    ('{"type": "session.update"}', 400, "invalid_value", "type", None),
    ('{"type": "response.create", "stream_id": ""}', 400, "invalid_stream_id", "stream_id", None),
    ('{"type": "response.create", "stream_id": "a b"}', 400, "invalid_stream_id", "stream_id", None),
    ('{"type": "response.create", "stream_id": "a\\n"}', 400, "invalid_stream_id", "stream_id", None),
    ('{"type": "response.create", "stream_id": 7}', 400, "invalid_stream_id", "stream_id", None),
    (f'{{"type": "response.create", "stream_id": "{"a" * 257}"}}', 400, "invalid_stream_id", "stream_id", None),
    ('{"type": "response.create", "stream_id": "a"}', 400, "missing_required_parameter", "model", "a"),
    ('{"type": "response.create", "model": "m"}', 400, "missing_required_parameter", "input", None),
    ('{"type": "response.create", "model": "m", "input": "x\\u0000"}', 400, "invalid_value", "input", None),
    ('{"type": "response.create", "model": "m", "input": "x", "background": true}', 400, "unsupported_parameter",
     "background", None),
    ('{"type": "response.create", "model": "m", "input": "x", "generate": "no"}', 400, "invalid_type", "generate",
     None),
    ('{"type": "response.create", "model": "m", "input": "x", "sing": 1}', 400, "unknown_parameter", "sing", None),
    ('{"type": "response.create", "model": "other", "input": "x"}', 404, "model_not_found", "model", None),
    ('{"type": "response.steer"}', 400, "missing_required_parameter", "previous_response_id", None),
    ('{"type": "response.steer", "previous_response_id": "resp_1"}', 400, "missing_required_parameter", "input", None),
    ('{"type": "response.steer", "previous_response_id": 1, "input": "x"}', 400, "invalid_type",
     "previous_response_id", None),
    ('{"type": "response.steer", "previous_response_id": "resp_1", "input": 5}', 400, "invalid_type", "input", None),
]  # fmt: skip


async def test_every_wrong_message_is_answered_and_the_connection_stays() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        for message, status, code, param, lane in WRONG_MESSAGES:
            await client.ws.send(message)
            event = await client.next()
            ResponseWsError.model_validate(event, strict=True)
            assert set(event["error"]) >= {"type", "code", "message", "param"}
            found = (event["status"], event["error"]["code"], event["error"]["param"], event.get("stream_id"))
            assert found == (status, code, param, lane), message
        assert await client.turn()


@pytest.mark.parametrize("ignored", [{"stream": True}, {"stream": False}, {"background": False}, {"background": None}])
async def test_what_clients_send_for_other_transports_is_ignored(ignored: dict[str, Any]) -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        assert await client.turn(**ignored, stream_id=None)


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        ("left", "left"),
        ([{"role": "user", "content": "left"}], [{"type": "message", "role": "user", "content": "left"}]),
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "left"}]}],) * 2,
    ],
)
async def test_steering_fails_in_the_sdks_own_shape_and_gives_the_input_back(given: Any, returned: Any) -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        await client.create("wait", stream_id="a")
        running = (await client.until("response.in_progress"))["response"]["id"]
        for target, lane in ((running, "a"), ("resp_other", None)):
            steer = {"type": "response.steer", "previous_response_id": target, "input": given}
            await client.ws.send(json.dumps(steer))
            failed = await client.until("response.steer.failed")
            parsed = ResponseSteerFailedEvent.model_validate(failed)
            assert (parsed.error.code, parsed.stream_id) == ("steering_not_supported", lane)
            assert failed["steer"] == {"previous_response_id": target, "input": returned}


async def test_one_lane_too_many_is_named_and_the_others_go_on() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        for number in range(MAX_NAMED_LANES):
            await client.turn(stream_id=f"lane-{number}")
        error = await client.ask(stream_id="one-more")
        assert (error["error"]["code"], error["stream_id"]) == ("websocket_stream_limit_reached", "one-more")
        assert await client.turn(stream_id="lane-0")
        assert await client.turn()


async def test_sixteen_of_twenty_are_in_flight_and_the_others_follow() -> None:
    async with gateway(Mesh(echo)) as mesh, connected(mesh) as client:
        for number in range(20):
            await client.create("wait", stream_id=f"{number}")
        lanes = [(await client.until("response.in_progress"))["stream_id"] for _ in range(16)]
        assert sorted(lanes, key=int) == [str(number) for number in range(16)]
        assert len(mesh.requests) == 16
        for request in list(mesh.requests)[:4]:
            mesh.publish([log_of(request).terminal(text="")])
        late = [(await client.until("response.in_progress"))["stream_id"] for _ in range(4)]
        assert late == ["16", "17", "18", "19"]


# --- the connection ---


@pytest.mark.parametrize(("length", "told"), [(2_500, True), (5_000, False)])
async def test_a_message_that_is_too_large_closes_with_1009(length: int, told: bool) -> None:
    async with gateway(Mesh(echo), body_limit_bytes=2_000) as mesh, connected(mesh) as client:
        await client.create("é" * (length // 2), stream_id="a")
        if told:
            error = await client.until("error")
            assert (error["status"], error["error"]["code"]) == (413, "request_too_large")
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    ("frame", "code"), [("x" * 5_000, 1009), (b"\x81\x82\0\0\0\0\xc3\x28", 1007), (b"\xff\xff", 1002)]
)
async def test_a_broken_frame_ends_the_connection_and_what_runs_on_it_quietly(
    frame: str | bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(Mesh(echo), body_limit_bytes=2_000) as mesh, connected(mesh) as client:
        await client.create("wait", stream_id="a")
        await client.until("response.in_progress")
        if isinstance(frame, str):
            await client.ws.send(frame)
        else:
            client.ws.transport.write(frame)
        request = mesh.requests[0]
        mesh.publish([log_of(request).delta(n, "x") for n in range(50)])
        assert (await client.closed())[0] == code
        async with asyncio.timeout(5):
            while ("detached", request.response_id) not in mesh.presence.seen:
                await asyncio.sleep(0.005)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_message_as_large_as_allowed_is_read() -> None:
    async with gateway(Mesh(echo), body_limit_bytes=2_000) as mesh, connected(mesh) as client:
        empty = len(json.dumps({"type": "response.create", "model": MODEL, "input": ""}))
        assert await client.turn("x" * (2_000 - empty))


async def test_pings_go_both_ways() -> None:
    async with gateway(Mesh(echo), ping_interval_s=0.02) as mesh, connected(mesh, ping_interval=None) as client:
        await asyncio.wait_for(await client.ws.ping(), 5)
        await asyncio.sleep(0.1)  # several of the gateway's, which the library answers
        assert await client.turn()


async def test_a_peer_that_answers_no_ping_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatewaySettings, "silent_peer_s", 0.1)
    async with gateway(Mesh(echo), ping_interval_s=0.05) as mesh:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(mesh.url.split(":")[2].split("/")[0]))
        writer.write(HANDSHAKE)
        async with asyncio.timeout(5):
            everything = await reader.read()
        assert b"keepalive ping timeout" in everything
        writer.close()


def test_a_slow_reader_is_told_how_to_resume_before_it_is_taken_for_gone() -> None:
    settings = GatewaySettings(lag_limit_s=7)
    assert settings.silent_peer_s > settings.lag_limit_s


async def test_what_runs_at_the_end_of_a_connections_life_goes_on_and_nothing_new_begins() -> None:
    async with gateway(Mesh(echo), connection_limit_s=0.5) as mesh, connected(mesh) as client:
        await client.create("wait", stream_id="a")
        await client.until("response.in_progress")
        await asyncio.sleep(0.6)
        error = await client.ask("more", stream_id="b")
        assert (error["error"]["code"], error["stream_id"]) == ("websocket_connection_limit_reached", "b")
        mesh.publish([log_of(mesh.requests[0]).terminal(text="")])
        assert (await client.until("response.completed"))["stream_id"] == "a"
        last = await client.until("error")
        assert (last["error"]["code"], last.get("stream_id")) == ("websocket_connection_limit_reached", None)
        assert (await client.closed())[0] == 1001


async def test_what_runs_for_too_long_is_resumed_elsewhere() -> None:
    async with gateway(Mesh(echo), connection_limit_s=0.5, connection_grace_s=0.05) as mesh:
        async with connected(mesh) as client:
            await client.create("wait")
            await client.until("response.in_progress")
            assert (await client.until("error"))["error"]["code"] == "websocket_connection_limit_reached"
            assert (await client.closed())[0] == 1001
        request = mesh.requests[0]
        mesh.publish([log_of(request).terminal(text="")])
        async with connected(mesh, f"?response_id={request.response_id}&starting_after=1") as client:
            assert (await client.until("response.completed"))["response"]["id"] == request.response_id


# --- the handshake ---

KEY = "openai-insecure-api-key."


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ([], None),
        (["realtime"], "realtime"),
        (["realtime", f"{KEY}sk-a"], "realtime"),
        (
            [f"{KEY}sk-a", "openai-organization.o", "openai-project.p", "realtime", "openai-beta.realtime-v1"],
            "realtime",
        ),
        ([f"{KEY}sk-a", "openai-beta.realtime-v1"], "openai-beta.realtime-v1"),
        (["chat"], None),
    ],
)
def test_the_answer_is_an_offered_protocol_that_is_no_secret(offered: list[str], answered: str | None) -> None:
    assert choose_protocol(offered) == answered


@pytest.mark.parametrize(
    ("protocols", "headers", "query", "status", "says"),
    [
        (["realtime", f"{KEY}sk-a"], {}, "", None, ""),
        (["realtime", f"{KEY}sk-a"], {"authorization": "Bearer sk-a"}, "", None, ""),
        (["realtime"], {"authorization": "Bearer sk-a"}, "", None, ""),
        ([f"{KEY}sk-a", "openai-beta.realtime-v1"], {}, "", None, ""),
        (["realtime", f"{KEY}sk-b"], {"authorization": "Bearer sk-wrong"}, "", 401, "Incorrect API key"),
        (["realtime", f"{KEY}sk-wrong"], {}, "", 401, "Incorrect API key"),
        (["realtime", KEY.rstrip(".")], {}, "", 401, "didn't provide"),
        ([f"{KEY}sk-a"], {}, "", 400, "never sent back"),
        (["realtime"], {}, "", 401, "didn't provide"),
        ([], {}, "?api_key=sk-a", 401, "written to logs"),
        ([], {}, "?Token=sk-a", 401, "written to logs"),
    ],
)
async def test_the_table_of_keys(
    protocols: list[str], headers: dict[str, str], query: str, status: int | None, says: str
) -> None:
    async with gateway(Mesh(echo), keys=True) as mesh:
        options: Any = {"subprotocols": protocols or None, "additional_headers": headers}
        if status is None:
            async with connected(mesh, query, **options) as client:
                assert client.ws.subprotocol in protocols
                assert KEY not in str(client.ws.response.headers)
                await client.turn()
                assert mesh.requests[-1].tenant == "acme"
            return
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(ws_url(mesh, query), **options)
        assert refused.value.response.status_code == status
        error = json.loads(refused.value.response.body or b"")["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert says in error["message"]


async def test_without_keys_any_key_goes() -> None:
    async with (
        gateway(Mesh(echo)) as mesh,
        connected(mesh, subprotocols=["realtime", f"{KEY}anything"]) as client,
    ):
        assert client.ws.subprotocol == "realtime"
        assert await client.turn()


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("?response_id=", 404, "response_id"),
        ("?response_id=resp_1", 404, "response_id"),
        ("?response_id=nonsense&starting_after=1", 404, "response_id"),
        ("?response_id=conv_00000000000000000000000000000000", 404, "response_id"),
        ("?response_id={known}&starting_after=-1", 400, "starting_after"),
        ("?response_id={known}&starting_after=", 400, "starting_after"),
        ("?response_id={known}&starting_after=1.0", 400, "starting_after"),
        ("?starting_after=1", 400, "starting_after"),
    ],
)
async def test_a_query_that_cannot_be_is_refused_in_the_handshake(query: str, status: int, param: str) -> None:
    async with gateway(Mesh(echo)) as mesh:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(ws_url(mesh, query.replace("{known}", new_response_id(1).text)))
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["error"]["param"] == param


async def test_a_response_is_resumed_by_the_id_that_chat_completions_give_it() -> None:
    async with gateway(Mesh(echo)) as mesh:
        async with connected(mesh) as client:
            response_id = await client.turn()
        by_chat = "chatcmpl-" + response_id.removeprefix("resp_")
        async with connected(mesh, f"?response_id={by_chat}&starting_after=3") as client:
            assert (await client.next())["sequence_number"] == 4
