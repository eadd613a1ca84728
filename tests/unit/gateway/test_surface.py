"""What clients see, through real sockets and the official SDK, over a mesh in memory."""

import asyncio
import json
import socket
from typing import Any

import httpx
import openai
import pytest
import websockets

from services.gateway.projections import ResponsesProjection
from shared.errors import AccessDeniedError, AppendError, LogError
from shared.ids import new_response_id, parse_response_id
from shared.records import Cancelled, ContextRequested, Deleted, Failed, Incomplete, Rejected, Requested, ResponseFound
from tests.unit.gateway.harness import MODEL, Mesh, accept, gateway, log_of, only_accept, say
from tests.unit.gateway.logs import Log

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}


def ws_url(mesh: Mesh, query: str = "") -> str:
    return mesh.url.replace("http", "ws") + "/responses" + query


async def frames(ws: Any, last: str = "response.completed") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        while not found or found[-1]["type"] not in (last, "error"):
            found.append(json.loads(await ws.recv()))
    return found


async def seen(mesh: Mesh, what: str) -> None:
    async with asyncio.timeout(5):
        while what not in [kind for kind, _ in mesh.presence.seen]:
            await asyncio.sleep(0.005)


async def until_left(mesh: Mesh) -> None:
    """The gateway has seen that every client left."""
    async with asyncio.timeout(5):
        while mesh.admission.in_flight:
            await asyncio.sleep(0.005)


async def until_forgotten(mesh: Mesh, request: Requested) -> None:
    async with asyncio.timeout(5):
        while mesh.fanout.find(parse_response_id(request.response_id)) is not None:
            await asyncio.sleep(0.005)


async def test_json_sse_and_websocket_tell_the_same() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        whole = await client.responses.create(**ASK)
        assert (whole.status, whole.output_text) == ("completed", "Hello world")
        assert whole.usage is not None and whole.usage.total_tokens == 10
        streamed = [event async for event in await client.responses.create(stream=True, **ASK)]
        assert [event.sequence_number for event in streamed] == list(range(10))
        assert streamed[-1].response.output_text == "Hello world"
        async with client.responses.connect() as connection:
            await connection.response.create(**ASK)
            await connection.response.create(**ASK)
            over_ws = []
            async for event in connection:
                over_ws.append(event.type)
                if over_ws.count("response.completed") == 2:
                    break
        assert over_ws == [event.type for event in streamed] * 2
        assert {request.reply_to for request in mesh.requests} == {mesh.replies.address}
        assert mesh.presence.seen == []


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [(Incomplete, {"reason": "content_filter"}, "incomplete"), (Cancelled, {}, "cancelled")],
)
async def test_other_ends_over_json(kind: type[Any], fields: dict[str, Any], status: str) -> None:
    async with gateway(Mesh(say("Half", kind=kind, **fields))) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        assert (response.status, response.output_text) == (status, "Half")


async def test_a_failed_response_is_a_500_over_json_and_an_event_over_sse() -> None:
    script = say("Half", kind=Failed, code="server_error", message="no worker")
    async with gateway(Mesh(script)) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="no worker"):
            await client.responses.create(**ASK)
        events = [event async for event in await client.responses.create(stream=True, **ASK)]
        assert events[-1].type == "response.failed"


async def test_a_refused_input_is_an_http_error_before_any_stream() -> None:
    def refuse(mesh: Mesh, request: Requested) -> list[Any]:
        mesh.replies.deliver(
            Rejected(
                gateway="gateway-1",
                correlation_id=request.response_id,
                status=400,
                code="content_policy_violation",
                message="refused",
                param="input",
            )
        )
        return []

    async with gateway(Mesh(refuse)) as mesh, mesh.client() as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(stream=stream, **ASK)
            assert caught.value.code == "content_policy_violation"
        async with websockets.connect(ws_url(mesh)) as ws:
            await ws.send(json.dumps({"type": "response.create", "stream_id": "a", **ASK}))
            error = (await frames(ws))[-1]
            assert (error["status"], error["stream_id"]) == (400, "a")
            assert error["error"]["code"] == "content_policy_violation"
        assert mesh.presence.seen == []


async def test_a_log_that_takes_nothing_is_a_503() -> None:
    def fail(_: Mesh, __: Requested) -> list[Any]:
        raise AppendError("away")

    async with gateway(Mesh(fail)) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.responses.create(**ASK)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        # It may stand in the log all the same: then nobody follows it.
        assert [kind for kind, _ in mesh.presence.seen] == ["detached"]


async def test_silence_until_the_deadline_is_a_500_and_a_cancel() -> None:
    async with gateway(Mesh(lambda *_: []), deadline_s=0.05) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="deadline"):
            await client.responses.create(**ASK)
        assert [kind for kind, _ in mesh.presence.seen] == ["cancel"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("accepted", [False, True])
async def test_a_client_that_leaves_is_detached(stream: bool, accepted: bool) -> None:
    mesh = Mesh(only_accept if accepted else lambda *_: [])
    async with gateway(mesh):
        body = json.dumps({**ASK, "stream": stream}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(mesh.url.split(":")[2].split("/")[0]))
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        async with asyncio.timeout(5):
            if accepted and stream:
                await reader.readuntil(b"response.in_progress")
            while not mesh.requests:
                await asyncio.sleep(0.005)
        writer.close()
        await seen(mesh, "detached")


def rejected(request: Requested) -> Rejected:
    return Rejected(
        gateway="gateway-1", correlation_id=request.response_id, status=400, code="previous_response_not_found",
        message="unknown",
    )  # fmt: skip


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_client_that_leaves_while_history_assembles_is_detached_once_it_was_accepted(accepted: bool) -> None:
    """Until then the journal has no `requested`, and would ignore the `detached`."""
    async with gateway(Mesh(lambda *_: [])) as mesh, mesh.client() as client:
        asking = asyncio.create_task(client.responses.create(previous_response_id="resp_p", stream=True, **ASK))
        async with asyncio.timeout(5):
            while not mesh.requests:
                await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until_left(mesh)
        request = mesh.requests[0]
        assert mesh.presence.seen == []
        if accepted:
            mesh.publish([accept(request)])
            await seen(mesh, "detached")
        else:
            mesh.replies.deliver(rejected(request))
        await until_forgotten(mesh, request)
        assert [kind for kind, _ in mesh.presence.seen] == (["detached"] if accepted else [])


async def test_a_websocket_that_closes_is_detached() -> None:
    async with gateway(Mesh(only_accept)) as mesh:
        async with websockets.connect(ws_url(mesh)) as ws:
            await ws.send(json.dumps({"type": "response.create", **ASK}))
            await frames(ws, "response.in_progress")
        await seen(mesh, "detached")


async def test_background_returns_at_once_and_goes_on_alone() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        response = await client.responses.create(background=True, **ASK)
        assert (response.status, response.background) == ("in_progress", True)
        mesh.publish([log_of(mesh.requests[0]).terminal(text="Done")])
        fetched = await client.responses.retrieve(response.id)
        assert (fetched.status, fetched.output_text) == ("completed", "Done")
        assert mesh.presence.seen == []


async def test_a_stream_can_be_resumed_over_sse_and_websocket() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        response = await client.responses.create(background=True, **ASK)
        log = log_of(mesh.requests[0])
        mesh.publish([log.delta(0, "Hel")])
        resumed = await client.responses.retrieve(response.id, stream=True, starting_after=2)
        first = await anext(aiter(resumed))
        async with websockets.connect(ws_url(mesh, f"?response_id={response.id}&starting_after=2")) as ws:
            mesh.publish([log.delta(3, "lo"), log.terminal(text="Hello")])
            rest = [first, *[event async for event in resumed]]
            assert [event.sequence_number for event in rest] == list(range(3, 10))
            assert [frame["sequence_number"] for frame in await frames(ws)] == list(range(3, 10))
        at_the_end = await client.responses.retrieve(response.id, stream=True, starting_after=9)
        assert [event async for event in at_the_end] == []


async def test_a_response_that_left_the_log_comes_from_history() -> None:
    log = Log(new_response_id(1))
    accepted, terminal = log.accepted(), log.terminal(text="Long ago")
    mesh = Mesh(
        on_query=lambda query: ResponseFound(
            gateway="gateway-1", correlation_id=query.correlation_id, accepted=accepted, terminal=terminal
        )
    )
    projection = ResponsesProjection(log.id)
    events = [event for record in (accepted, terminal) for event in projection.feed(record)]
    async with gateway(mesh, keys=True), mesh.client() as client:
        assert (await client.responses.retrieve(log.id.text)).output_text == "Long ago"
        streamed = await client.responses.retrieve(log.id.text, stream=True, starting_after=1)
        assert [event.type async for event in streamed] == [event.type for event in events[2:]]


@pytest.mark.parametrize("starting_after", ["-1", "x", "1.5", "٣", "", "9" * 19])
async def test_what_is_no_sequence_number_is_refused(starting_after: str) -> None:
    async with gateway(Mesh(only_accept)) as mesh, httpx.AsyncClient() as http:
        response_id = new_response_id(1).text
        query = {"stream": "true", "starting_after": starting_after}
        answer = await http.get(f"{mesh.url}/responses/{response_id}", params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")
        with pytest.raises(websockets.InvalidStatus) as handshake:
            await websockets.connect(ws_url(mesh, f"?response_id={response_id}&starting_after={starting_after}"))
        assert handshake.value.response.status_code == 400


async def test_a_number_beyond_the_end_waits_for_what_comes_behind_it() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        response = await client.responses.create(background=True, **ASK)
        log = log_of(mesh.requests[0])
        stream = await client.responses.retrieve(response.id, stream=True, starting_after=6)
        mesh.publish([log.delta(0, "Hel"), log.delta(3, "lo"), log.terminal(text="Hello")])
        assert [event.sequence_number async for event in stream] == [7, 8, 9]
        late = await client.responses.retrieve(response.id, stream=True, starting_after=10**9)
        assert [event async for event in late] == []


async def test_several_followers_read_the_same_bytes_at_their_own_place() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client, httpx.AsyncClient() as http:
        response = await client.responses.create(background=True, **ASK)
        log = log_of(mesh.requests[0])
        url = f"{mesh.url}/responses/{response.id}"
        reading = [
            asyncio.create_task(http.get(url, params={"stream": "true", "starting_after": str(number)}))
            for number in (0, 3, 5)
        ]
        await asyncio.sleep(0.05)
        mesh.publish([log.delta(0, "Hel"), log.delta(3, "lo"), log.terminal(text="Hello")])
        bodies = [(await task).content.split(b"\n\n") for task in reading]
        assert [len(body) - 1 for body in bodies] == [9, 6, 4]
        assert bodies[1] == bodies[0][3:]
        assert bodies[2] == bodies[0][5:]


async def test_a_response_that_is_accepted_while_the_store_is_asked_is_no_server_error() -> None:
    """Between looking into the log and asking the store: a view of the log from then has no end."""
    log = Log(new_response_id(1), "local")
    mesh = Mesh()

    def missing(query: Any) -> Rejected:
        mesh.publish([log.accepted()])
        return Rejected(
            gateway="gateway-1", correlation_id=query.correlation_id, status=404, code="response_not_found", message=""
        )

    mesh.on_query = missing
    async with gateway(mesh), mesh.client() as client:
        for call in (client.responses.retrieve(log.id.text, stream=True), client.responses.cancel(log.id.text)):
            mesh.log.records.clear()
            with pytest.raises(openai.NotFoundError):
                await call


async def test_a_deleted_response_does_not_exist_and_the_store_is_not_asked() -> None:
    log = Log(new_response_id(1), "local")
    mesh = Mesh(on_query=lambda query: pytest.fail("asked"))
    async with gateway(mesh), mesh.client() as client:
        mesh.publish([log.accepted(), log.terminal(), Deleted(response_id=log.id.text, tenant="local")])
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(log.id.text, stream=stream)


async def test_history_that_does_not_answer_is_a_503() -> None:
    async with gateway(Mesh(), query_timeout_s=0.05) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="history"):
            await client.responses.retrieve(new_response_id(1).text)


@pytest.mark.parametrize("error", [LogError("away"), AccessDeniedError("may not read")])
async def test_a_log_that_cannot_be_read_is_a_503(error: Exception) -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        key: dict[str, Any] = {"extra_headers": {"Idempotency-Key": "k"}}
        first = await client.responses.create(**ASK, **key)
        mesh.log.error = error
        for asking in (
            client.responses.retrieve(first.id),
            client.responses.retrieve(first.id, stream=True),
            client.responses.create(**ASK, **key),
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                await asking
            assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")


async def test_no_tenant_sees_anothers() -> None:
    async with gateway(Mesh(), keys=True) as mesh, mesh.client("sk-a") as ours, mesh.client("sk-b") as theirs:
        response = await ours.responses.create(**ASK)
        assert (await ours.responses.retrieve(response.id)).id == response.id
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError) as foreign:
                await theirs.responses.retrieve(response.id, stream=stream)
            with pytest.raises(openai.NotFoundError) as unknown:
                await theirs.responses.retrieve("resp_nothing", stream=stream)
            assert foreign.value.body == {**unknown.value.body, "message": foreign.value.body["message"]}  # type: ignore[dict-item, index]
        async with websockets.connect(
            ws_url(mesh, f"?response_id={response.id}"), additional_headers={"authorization": "Bearer sk-b"}
        ) as ws:
            assert (await frames(ws))[-1]["status"] == 404
        # A reader counts before the log has shown whose response it is; this one had ended, so nothing comes of it.
        assert set(mesh.presence.seen) == {("attached", response.id)}


async def test_a_wrong_key_is_401_everywhere() -> None:
    async with gateway(Mesh(), keys=True) as mesh, mesh.client("sk-wrong") as client:
        for call in (client.responses.create(**ASK), client.responses.retrieve("resp_x"), client.models.retrieve("m")):
            with pytest.raises(openai.AuthenticationError) as caught:
                await call
            assert caught.value.code == "invalid_api_key"
        with pytest.raises(websockets.InvalidStatus) as handshake:
            await websockets.connect(ws_url(mesh), additional_headers={"authorization": "Bearer sk-wrong"})
        assert handshake.value.response.status_code == 401
        assert json.loads(handshake.value.response.body)["error"]["code"] == "invalid_api_key"
        assert handshake.value.response.headers["x-request-id"]


async def test_what_does_not_fit_is_429_with_retry_after() -> None:
    async with gateway(Mesh(only_accept), max_in_flight=1) as mesh, mesh.client() as client:
        holding = await client.responses.create(stream=True, **ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(**ASK)
        assert caught.value.response.headers["retry-after"] == "1"
        await holding.close()
        await seen(mesh, "detached")
        await (await client.responses.create(stream=True, **ASK)).close()


async def test_stored_context_goes_through_history() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        parent = await client.responses.create(**ASK)
        child = await client.responses.create(previous_response_id=parent.id, **ASK)
        assert child.previous_response_id == parent.id
        assert [record.subject for record in mesh.writer.of(ContextRequested)] == [parent.id]


async def test_ids_are_minted_in_turn_over_the_home_partitions() -> None:
    async with gateway(Mesh()) as mesh, mesh.client() as client:
        for _ in range(8):
            await client.responses.create(**ASK)
        partitions = [parse_response_id(request.response_id).partition for request in mesh.requests]
        assert partitions == [0, 1, 2, 3, 0, 1, 2, 3]


async def test_models_health_and_unknown_routes() -> None:
    async with gateway(Mesh()) as mesh, httpx.AsyncClient() as http, mesh.client() as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).object == "model"
        root = mesh.url.removesuffix("/v1")
        assert (await http.get(f"{root}/healthz")).json() == {"status": "ok"}
        ready = await http.get(f"{root}/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "missing": []})
        for answer in (await http.get(f"{mesh.url}/nothing"), await http.put(f"{mesh.url}/responses")):
            assert answer.status_code in (404, 405)
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
            assert answer.headers["x-request-id"].startswith("req_")


async def test_an_oversized_body_can_read_its_413() -> None:
    async with gateway(Mesh(), body_limit_bytes=2000) as mesh, httpx.AsyncClient() as http:

        async def chunks() -> Any:
            for _ in range(100):
                yield b"x" * 10_000

        for content in (b"x" * 2001, b"x" * 3_000_000, chunks()):
            answer = await http.post(f"{mesh.url}/responses", content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert (await http.post(f"{mesh.url}/responses", content=b"{" * 2000)).status_code == 400


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_type"),
        ("{}", "missing_required_parameter"),
        ('{"type": "response.sing"}', "invalid_value"),
        ('{"type": "response.create", "model": "m"}', "missing_required_parameter"),
        ('{"type": "response.create", "model": "x", "input": "y"}', "model_not_found"),
        ('{"type": "response.create", "model": "m", "input": "y", "stream_id": "a b"}', "invalid_stream_id"),
        ('{"type": "response.create", "model": "m", "input": "y", "background": true}', "unsupported_parameter"),
    ],
)
async def test_a_wrong_frame_is_answered_and_the_connection_stays(frame: str, code: str) -> None:
    async with gateway(Mesh()) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(frame)
        assert (await frames(ws))[-1]["error"]["code"] == code
        await ws.send(json.dumps({"type": "response.create", "stream": True, **ASK}))
        assert (await frames(ws))[-1]["type"] == "response.completed"


async def test_steering_is_refused_in_its_own_words() -> None:
    async with gateway(Mesh()) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.steer", "previous_response_id": "resp_1", "input": "left"}))
        failed = (await frames(ws, "response.steer.failed"))[-1]
        assert failed["error"]["code"] == "steering_not_supported"
        assert failed["steer"] == {"previous_response_id": "resp_1", "input": "left"}


async def test_frames_that_cannot_be_close_with_their_codes() -> None:
    async with gateway(Mesh(), body_limit_bytes=2000) as mesh:
        for frame, code in (("x" * 3000, 1009), ("x" * 5000, 1009)):
            async with websockets.connect(ws_url(mesh)) as ws:
                await ws.send(frame)
                with pytest.raises(websockets.ConnectionClosed) as caught:
                    async with asyncio.timeout(5):
                        while True:
                            await ws.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == code


async def test_lanes_run_side_by_side_and_carry_their_name() -> None:
    def script(mesh: Mesh, request: Requested) -> list[Any]:
        return only_accept(mesh, request) if request.spec.input[0].text == "slow" else say("Hi")(mesh, request)

    async with gateway(Mesh(script)) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", "stream_id": "a", "model": MODEL, "input": "slow"}))
        await frames(ws, "response.in_progress")
        await ws.send(json.dumps({"type": "response.create", "stream_id": "b", **ASK}))
        assert {frame["stream_id"] for frame in await frames(ws)} == {"b"}
        mesh.publish([log_of(mesh.requests[0]).terminal(text="late")])
        assert {frame["stream_id"] for frame in await frames(ws)} == {"a"}


async def test_an_old_connection_is_asked_to_reconnect() -> None:
    async with gateway(Mesh(), connection_limit_s=0.05) as mesh, websockets.connect(ws_url(mesh)) as ws:
        assert (await frames(ws))[-1]["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await ws.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


async def test_shutdown_closes_websockets_with_1012() -> None:
    async with gateway(Mesh(only_accept)) as mesh:
        async with websockets.connect(ws_url(mesh)) as ws:
            await ws.send(json.dumps({"type": "response.create", **ASK}))
            await frames(ws, "response.in_progress")
            mesh.server.should_exit = True
            with pytest.raises(websockets.ConnectionClosed) as caught:
                async with asyncio.timeout(5):
                    await ws.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        await seen(mesh, "detached")


def flood(_: Mesh, request: Requested) -> list[Any]:
    """20 MB in 200 deltas, more than any socket holds."""
    log, piece = log_of(request), "x" * 100_000
    return [accept(request), *(log.delta(n * len(piece), piece) for n in range(200))]


async def test_a_websocket_that_does_not_read_is_told_to_come_again_later() -> None:
    async with gateway(Mesh(flood), lag_limit_s=0.3) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        await seen(mesh, "detached")
        with pytest.raises(websockets.ConnectionClosed) as caught:
            async with asyncio.timeout(5):
                while True:
                    last = json.loads(await ws.recv())["sequence_number"]
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1013
        query = caught.value.rcvd.reason.partition("?")[2]
        assert query == f"response_id={mesh.requests[0].response_id}&starting_after={last}"


async def test_a_peer_that_does_not_read_is_left_and_stalls_nobody() -> None:
    async with gateway(Mesh(flood), lag_limit_s=0.3) as mesh:
        port = int(mesh.url.split(":")[2].split("/")[0])
        body = json.dumps({**ASK, "stream": True}).encode()
        deaf = socket.create_connection(("127.0.0.1", port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        async with asyncio.timeout(5):
            while not mesh.requests:
                await asyncio.sleep(0.005)
        mesh.script = say("Hi")
        async with mesh.client() as client:
            assert (await client.responses.create(**ASK)).output_text == "Hi"
        await seen(mesh, "detached")
        deaf.close()
