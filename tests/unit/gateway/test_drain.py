"""A gateway that leaves: nothing new, what runs goes on, the rest breaks off so that its client resumes elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import websockets

from services.gateway.drain import Drain
from services.gateway.settings import GatewaySettings
from shared.errors import SettingsError
from shared.settings import load_settings
from tests.unit.gateway.harness import MODEL, Mesh, gateway, log_of, only_accept

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}
HELD = 30.0


@asynccontextmanager
async def draining(mesh: Mesh, grace_s: float = HELD) -> AsyncIterator[asyncio.Event]:
    """The drain runs; the event hurries it."""
    hurried = asyncio.Event()
    running = asyncio.create_task(mesh.drain.run(grace_s, hurried))
    await mesh.drain.begun
    try:
        yield hurried
    finally:
        hurried.set()
        await running


async def open_stream(client: openai.AsyncOpenAI) -> tuple[Any, Any]:
    stream = await client.responses.create(stream=True, **ASK)
    events = aiter(stream)
    assert (await anext(events)).type == "response.created"
    return stream, events


def ws_url(mesh: Mesh) -> str:
    return mesh.url.replace("http", "ws") + "/responses"


async def close_code(ws: Any) -> int:
    with pytest.raises(websockets.ConnectionClosed) as caught:
        async with asyncio.timeout(5):
            while True:
                await ws.recv()
    assert caught.value.rcvd is not None
    return int(caught.value.rcvd.code)


async def test_nothing_new_is_taken_and_the_probes_say_so() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client, httpx.AsyncClient() as http:
        _, events = await open_stream(client)
        async with draining(mesh):
            answer = await http.post(f"{mesh.url}/responses", json=ASK)
            assert answer.status_code == 503
            assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
            assert answer.json()["error"]["code"] == "server_error"
            with pytest.raises(websockets.InvalidStatus) as handshake:
                await websockets.connect(ws_url(mesh))
            assert handshake.value.response.status_code == 503
            root = mesh.url.removesuffix("/v1")
            ready = await http.get(f"{root}/readyz")
            assert (ready.status_code, ready.json()["missing"]) == (503, ["this gateway is shutting down"])
            assert (await http.get(f"{root}/healthz")).status_code == 200
            assert len(mesh.requests) == 1
            mesh.publish([log_of(mesh.requests[0]).terminal(text="Done")])
            assert [event.type async for event in events][-1] == "response.completed"


async def test_it_is_over_as_soon_as_the_last_stream_ended() -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        _, events = await open_stream(client)
        async with draining(mesh):
            assert not mesh.drain.over.done()
            mesh.publish([log_of(mesh.requests[0]).terminal(text="Done")])
            assert [event.type async for event in events][-1] == "response.completed"
            async with asyncio.timeout(5):
                await mesh.drain.over


@pytest.mark.parametrize("hurry", [False, True])
async def test_behind_the_grace_or_in_a_hurry_streams_break_off_and_count_as_left(hurry: bool) -> None:
    async with gateway(Mesh(only_accept)) as mesh, mesh.client() as client:
        _, events = await open_stream(client)
        async with draining(mesh, HELD if hurry else 0.05) as hurried:
            if hurry:
                hurried.set()
            with pytest.raises(openai.APIConnectionError):
                [event async for event in events]
        async with asyncio.timeout(5):
            while [kind for kind, _ in mesh.presence.seen] != ["detached"]:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("accepted", [False, True])
async def test_who_waits_for_json_is_told_to_try_again(accepted: bool) -> None:
    async with gateway(Mesh(only_accept if accepted else lambda *_: [])) as mesh, mesh.client() as client:
        asking = asyncio.create_task(client.responses.create(**ASK))
        async with asyncio.timeout(5):
            while not mesh.requests:
                await asyncio.sleep(0.005)
        async with draining(mesh, 0.05):
            with pytest.raises(openai.InternalServerError) as caught:
                await asking
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"] == "1"


async def test_an_idle_websocket_is_asked_to_reconnect_at_once() -> None:
    async with gateway(Mesh()) as mesh, websockets.connect(ws_url(mesh)) as ws, draining(mesh):
        assert await close_code(ws) == 1012


async def test_a_busy_websocket_ends_its_response_first_and_takes_no_other() -> None:
    async with gateway(Mesh(only_accept)) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        assert json.loads(await ws.recv())["type"] == "response.created"
        async with draining(mesh):
            await ws.send(json.dumps({"type": "response.create", "stream_id": "b", **ASK}))
            await ws.recv()
            refused = json.loads(await ws.recv())
            assert (refused["type"], refused["status"], refused["stream_id"]) == ("error", 503, "b")
            mesh.publish([log_of(mesh.requests[0]).terminal(text="Done")])
            async with asyncio.timeout(5):
                while json.loads(await ws.recv())["type"] != "response.completed":
                    pass
            assert await close_code(ws) == 1012


async def test_behind_the_grace_a_busy_websocket_closes_with_1012() -> None:
    async with gateway(Mesh(only_accept)) as mesh, websockets.connect(ws_url(mesh)) as ws:
        await ws.send(json.dumps({"type": "response.create", **ASK}))
        await ws.recv()
        async with draining(mesh, 0.05):
            assert await close_code(ws) == 1012


async def test_without_work_it_is_over_at_once() -> None:
    drain = Drain()
    async with asyncio.timeout(5):
        await drain.run(HELD, asyncio.Event())
    assert drain.over.done()


def test_the_grace_must_fit_the_shutdown() -> None:
    with pytest.raises(SettingsError, match="CHATMESH_DRAIN_GRACE_S"):
        load_settings(GatewaySettings, drain_grace_s=9.0, shutdown_s=10.0)
