"""Which pages are let in, over HTTP and WebSocket."""

import asyncio
from typing import Any

import httpx
import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.api.origins import Origins, parse_origins
from services.gateway.settings import GatewaySettings
from shared.errors import SettingsError
from shared.settings import load_settings
from tests.unit.gateway.harness import MODEL, Mesh, gateway

LISTED = parse_origins("https://chat.example.org, http://Other.Example:8080/,https://deflt.example:443,null")


@pytest.mark.parametrize(
    ("origin", "allowed", "same_host", "let_in"),
    [
        ("http://localhost:3000", frozenset(), False, True),
        ("https://127.0.0.1", frozenset(), False, True),
        ("http://[::1]:5173", frozenset(), False, True),
        ("http://app.localhost:3000", frozenset(), False, True),
        ("http://localhost.evil.example", frozenset(), True, False),
        ("file://localhost", frozenset(), True, False),
        ("https://evil.example", frozenset(), True, False),
        ("null", frozenset(), True, False),
        ("", frozenset(), True, False),
        ("http://[::1", frozenset(), True, False),
        ("http://x:port", frozenset(), True, False),
        ("https://mesh.example:8443", frozenset(), True, True),
        ("https://MESH.example:8443", frozenset(), True, True),
        ("https://mesh.example:8443", frozenset(), False, False),
        ("https://mesh.example", frozenset(), True, False),
        ("https://chat.example.org", LISTED, False, True),
        ("https://Chat.Example.org", LISTED, False, True),
        ("http://chat.example.org", LISTED, True, False),
        ("https://chat.example.org.evil.example", LISTED, True, False),
        ("https://sub.chat.example.org", LISTED, True, False),
        ("http://other.example:8080", LISTED, False, True),
        ("https://deflt.example", LISTED, False, True),
        ("null", LISTED, False, True),
        ("https://anything.example", parse_origins("*"), False, True),
    ],
)
def test_the_table_of_pages(origin: str, allowed: frozenset[str], same_host: bool, let_in: bool) -> None:
    assert Origins(allowed, same_host).allows(origin, "mesh.example:8443") is let_in


@given(st.text(), st.text())
def test_no_header_is_too_odd(origin: str, host: str) -> None:
    Origins(LISTED, same_host=True).allows(origin, host)


@pytest.mark.parametrize(
    "text", ["chat.example.org", "https://", "https://a/b", "https://a?b", "https://a:port", "a b", "//a"]
)
def test_what_is_no_origin_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATMESH_ALLOWED_ORIGINS", f"https://fine.example,{text}")
    with pytest.raises(SettingsError, match="CHATMESH_ALLOWED_ORIGINS") as caught:
        load_settings(GatewaySettings)
    assert text in str(caught.value)


PAGE = {"origin": "https://chat.example.org"}
SDK_HEADERS = "authorization,content-type,x-stainless-lang,x-stainless-retry-count,idempotency-key"


async def test_a_page_that_is_let_in_may_ask_and_read() -> None:
    async with (
        gateway(Mesh(), keys=True, allowed_origins="https://chat.example.org") as mesh,
        httpx.AsyncClient(headers=PAGE) as http,
    ):
        asking = {"access-control-request-method": "POST", "access-control-request-headers": SDK_HEADERS}
        preflight = await http.options(f"{mesh.url}/responses", headers=asking)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == PAGE["origin"]
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"] == SDK_HEADERS
        assert "access-control-allow-private-network" not in preflight.headers
        body = {"model": MODEL, "input": "Hi"}
        key = {"authorization": "Bearer sk-a"}
        for answer in (
            await http.post(f"{mesh.url}/responses", json=body, headers=key),
            await http.post(f"{mesh.url}/responses", json={**body, "stream": True}, headers=key),
            await http.post(f"{mesh.url}/responses", json=body),  # errors must be readable too
        ):
            assert answer.status_code in (200, 401)
            assert answer.headers["access-control-allow-origin"] == PAGE["origin"]
            assert "origin" in answer.headers["vary"].lower()
            exposed = answer.headers["access-control-expose-headers"]
            assert {"x-request-id", "retry-after", "x-ratelimit-reset-tokens"} <= set(exposed.split(", "))


async def test_a_refusal_while_draining_is_readable_too() -> None:
    async with gateway(Mesh(), allowed_origins="*") as mesh, httpx.AsyncClient(headers=PAGE) as http:
        await mesh.drain.run(0, asyncio.Event())
        answer = await http.get(f"{mesh.url}/models")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, PAGE["origin"])


async def test_other_pages_are_refused_by_name_and_other_clients_are_no_pages() -> None:
    async with gateway(Mesh(), keys=True) as mesh, httpx.AsyncClient() as http:
        evil: Any = {"origin": "https://evil.example", "authorization": "Bearer sk-a"}
        socket_url = mesh.url.replace("http", "ws") + "/responses"
        answers = [
            await http.post(f"{mesh.url}/responses", json={"model": MODEL, "input": "Hi"}, headers=evil),
            await http.options(
                f"{mesh.url}/responses", headers={**evil, "access-control-request-method": "POST"}
            ),
        ]  # fmt: skip
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
            assert "CHATMESH_ALLOWED_ORIGINS" in answer.json()["error"]["message"]
            assert "access-control-allow-origin" not in answer.headers
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(socket_url, additional_headers=evil)
        assert refused.value.response.status_code == 403
        assert b"origin_not_allowed" in refused.value.response.body
        assert not mesh.requests
        key = {"authorization": "Bearer sk-a"}
        for origin in (None, mesh.url.removesuffix("/v1"), "http://localhost:5173"):
            async with websockets.connect(socket_url, additional_headers=key, origin=origin):  # type: ignore[arg-type]
                pass
