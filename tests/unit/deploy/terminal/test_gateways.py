"""Where gateways are looked for, with which key, and for how long."""

import asyncio

import pytest

from deploy.local.access import api_key
from deploy.terminal.chat.gateways import ChatError, Gateways, base_urls
from deploy.terminal.chat.patience import Patience
from shared.errors import SettingsError

RUN = "http://127.0.0.1:8123"


@pytest.mark.parametrize(
    ("given", "environment", "of_run", "found"),
    [
        (["http://a:1"], {"OPENAI_BASE_URL": "http://b:1/v1"}, RUN, ["http://a:1/v1"]),
        (
            ["http://a:1/v1/,http://b:2", "https://c/mesh/v1"],
            {},
            None,
            ["http://a:1/v1", "http://b:2/v1", "https://c/mesh/v1"],
        ),
        ([], {"OPENAI_BASE_URL": "http://b:1/v1"}, RUN, ["http://b:1/v1"]),
        ([], {"PORT": "9"}, RUN, [f"{RUN}/v1"]),
        ([], {"PORT": "9"}, None, ["http://127.0.0.1:9/v1"]),
        ([], {}, None, ["http://127.0.0.1:8080/v1"]),
    ],
)
def test_the_user_comes_first_then_the_run_then_this_machine(
    given: list[str], environment: dict[str, str], of_run: str | None, found: list[str]
) -> None:
    assert base_urls(given, environment, of_run) == found


NO_ADDRESSES = [
    "localhost:8080", "ftp://a", "http://", "somewhere", "http://127.0.0.1:abc", "http://a:70000", "http://[::1",
    "http://a b", "http://a\x01b", "http://a..b",
]  # fmt: skip


@pytest.mark.parametrize("wrong", NO_ADDRESSES)
def test_what_is_no_address_is_said_to_be_none(wrong: str) -> None:
    with pytest.raises(ChatError, match="write http://host:port"):
        base_urls([wrong], {}, None)


@pytest.mark.parametrize(("given", "environment"), [([","], {}), ([" "], {}), ([], {"OPENAI_BASE_URL": " , "})])
def test_what_names_nothing_is_said_to_name_nothing(given: list[str], environment: dict[str, str]) -> None:
    with pytest.raises(ChatError, match="names no gateway: write http://host:port"):
        base_urls(given, environment, RUN)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "http://[::1"])
async def test_a_proxy_that_cannot_be_used_is_named_and_none_is_asked_for_this_machine(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ChatError, match="the proxy that ALL_PROXY names cannot be used: "):
        Gateways(["http://gateway:1/v1"], "none")
    gateways = Gateways(["http://127.0.0.1:1/v1"], "none")
    with pytest.raises(ChatError, match=r"no gateway answers at http://127\.0\.0\.1:1/v1"):
        await gateways.connect({}, Patience(1, 0.0))
    with pytest.raises(ChatError, match=r"no gateway answers at http://127\.0\.0\.1:1/v1"):
        await gateways.models()
    await gateways.close()


ELSE = ["<html>hello</html>", "[]", "null", "{", "5", '{"data": ["a"]}', '{"data": [{}]}', '{"data": 5}', ""]


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("body", ELSE)
async def test_what_answers_with_something_else_is_no_gateway(body: str, kind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {200 if body else 204} x\r\ncontent-type: {kind}\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        gateways = Gateways([url], "none")
        with pytest.raises(ChatError, match=f"{url} is no gateway that this chat can talk to"):
            await gateways.models()
        await gateways.close()


@pytest.mark.parametrize("key", ["schlüssel", "sk-ours\r", "sk-\udcff"])
def test_a_key_that_no_header_can_hold_is_said_to_be_none(key: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        api_key({"OPENAI_API_KEY": key})


def test_a_mesh_without_keys_needs_none() -> None:
    assert api_key({"OPENAI_API_KEY": "sk-ours"}) == "sk-ours"
    assert api_key({}) and api_key({"OPENAI_API_KEY": ""})


async def test_every_gateway_has_its_turn_before_the_last_ones_error_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateways, tried = Gateways(["http://a/v1", "http://b/v1"], "none"), list[str]()

    async def refuse(query: dict[str, str]) -> None:
        tried.append(gateways.url)
        raise ConnectionRefusedError

    monkeypatch.setattr(gateways, "_connect", refuse)
    with pytest.raises(ChatError, match=r"no gateway answers at http://a/v1 or http://b/v1: start a mesh"):
        await gateways.connect({}, Patience(2, 0.0))
    assert tried == gateways.urls
    await gateways.close()
