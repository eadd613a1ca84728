"""The small parts: keys, catalogue, prompt budget, the socket."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from services.gateway.auth import ApiKeys, Caller, LoopbackOnly, is_loopback, load_authenticator, read_keys
from services.gateway.catalogue import ServedModel, missing_parts, served_models
from services.gateway.errors import ApiError
from services.gateway.ingress import Fitted, fit
from services.gateway.settings import GatewaySettings
from services.gateway.web.server import bind
from shared.errors import SettingsError
from shared.heartbeats import Cluster
from shared.records import Heartbeat, Message, ResponseSpec, Sampling


def connection(peer: str = "127.0.0.1", **headers: str) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": (peer, 1), "query_string": b""})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text("sk-a: {tenant: acme, tier: priority}\nsk-b: {tenant: beta}\n")
    return path


def test_keys_name_tenants_and_tiers(key_file: Path) -> None:
    keys = ApiKeys(read_keys(key_file))
    assert keys.caller(connection(authorization="Bearer sk-a")) == Caller("acme", "priority")
    assert keys.caller(connection(authorization="bearer sk-b", peer="10.0.0.9")) == Caller("beta")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic sk-a", "Bearer sk-x", "sk-a"])
def test_wrong_keys_are_401(key_file: Path, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    with pytest.raises(ApiError) as caught:
        ApiKeys(read_keys(key_file)).caller(connection(**headers))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "sk-secret: acme", "sk-secret: {tier: default}", "sk-secret: {tenant: a, tier: gold}", "{a: ["],
)
def test_a_wrong_key_file_is_refused_without_showing_a_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_authenticator(path, "127.0.0.1")
    assert "CHATMESH_API_KEYS" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_authenticator(tmp_path / "none.yaml", "127.0.0.1")


def test_without_keys_only_this_machine() -> None:
    local = LoopbackOnly()
    assert local.caller(connection()) == Caller("local")
    assert local.caller(connection("::1", authorization="Bearer anything"))
    with pytest.raises(ApiError) as caught:
        local.caller(connection("192.168.1.7"))
    assert caught.value.status == 403
    with pytest.raises(SettingsError, match="CHATMESH_HOST"):
        load_authenticator(None, "0.0.0.0")


def test_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "10.0.0.1", "example.org"]))


def beat(service: Any, number: int = 1, **fields: Any) -> Heartbeat:
    return Heartbeat(service=service, id=f"{service}-{number}", **{"state": "ready", "seq": 1, **fields})


def cluster_of(*beats: Heartbeat) -> Cluster:
    cluster = Cluster(1000)
    for one in beats:
        cluster.apply(one, 1_000)
    return cluster


def test_models_come_from_ready_workers_with_the_smallest_window() -> None:
    cluster = cluster_of(
        beat("inference", 1, model="m", context_window=8192),
        beat("inference", 2, model="m", context_window=4096),
        beat("inference", 3, model="a", context_window=100),
        beat("inference", 4, model="late", context_window=1, state="starting"),
    )
    assert served_models(cluster) == [ServedModel("a", 100), ServedModel("m", 4096)]


def test_what_is_missing_is_said() -> None:
    nothing = missing_parts(cluster_of(beat("inference", state="starting", detail="loading 40 %")), 2)
    assert nothing == [
        "no moderation service is ready",
        "no inference service is ready (loading 40 %)",
        "2 of 2 journal partitions have no owner: [0, 1]",
    ]
    half = cluster_of(beat("inference"), beat("moderation", partitions=[1]))
    assert missing_parts(half, 2) == ["1 of 2 journal partitions have no owner: [0]"]
    assert missing_parts(cluster_of(beat("inference"), beat("moderation", partitions=[0, 1])), 2) == []


class Words:
    """Counts words, and one token a turn for its frame."""

    def count(self, messages: Sequence[dict[str, str]], /) -> int:
        return sum(1 + len(message["content"].split()) for message in messages)


def spec(*texts: str, limit: int | None = None, **fields: Any) -> ResponseSpec:
    turns = [Message(role="user", parts=[text]) for text in texts]
    return ResponseSpec(model="m", input=turns, sampling=Sampling(max_output_tokens=limit), **fields)


def test_a_prompt_that_fits_keeps_its_limit() -> None:
    assert fit(Words(), spec("a b c", limit=5), 10) == Fitted(spec("a b c", limit=5), (), 4)


def test_the_limit_is_lowered_to_what_is_left() -> None:
    fitted = fit(Words(), spec("a b c", limit=500, instructions="be brief"), 10)
    assert (fitted.spec.sampling.max_output_tokens, fitted.tokens) == (3, 7)


@pytest.mark.parametrize(("words", "verb"), [(9_119, "exceeds"), (8_191, "leaves no room")])
def test_a_prompt_that_is_too_long_is_told_both_numbers(words: int, verb: str) -> None:
    with pytest.raises(ApiError) as caught:
        fit(Words(), spec("w " * words), 8192)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert f"{words + 1:,} tokens {verb}" in caught.value.message
    assert "8,192" in caught.value.message


def test_truncation_drops_the_fewest_oldest_items() -> None:
    turns = ["one two three", "four five", "six", "seven eight"]
    fitted = fit(Words(), spec(*turns, truncation="auto"), 9)
    assert ([turn.text for turn in fitted.spec.input], fitted.tokens) == (turns[1:], 8)
    with pytest.raises(ApiError):
        fit(Words(), spec("short", "w " * 20, truncation="auto"), 9)
    with pytest.raises(ApiError):
        fit(Words(), spec("w " * 20, truncation="auto"), 9)


def test_truncation_drops_what_was_said_before_first() -> None:
    before = [Message(role="user", parts=[text]) for text in ("one two three", "four five")]
    fitted = fit(Words(), spec("six", "seven eight", truncation="auto"), 9, before)
    assert (fitted.context, fitted.spec.input, fitted.tokens) == (before[1:], spec("six", "seven eight").input, 8)
    last = fit(Words(), spec("six", "seven eight", truncation="auto"), 4, before)
    assert (last.context, [turn.text for turn in last.spec.input]) == ([], ["seven eight"])


def test_a_taken_port_is_named() -> None:
    with bind(GatewaySettings(PORT=0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"PORT.*{port}.*in use"):
            bind(GatewaySettings(PORT=port))


def test_a_client_that_does_not_read_blocks_its_writer_soon_and_is_not_held_for_ever() -> None:
    settings = GatewaySettings(PORT=0, send_buffer_bytes=32 * 1024, lag_limit_s=7)
    with bind(settings) as bound, socket.socket() as client:
        bound.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(bound.getsockname())
        accepted, _ = bound.accept()
        with accepted:
            assert taken_bytes(accepted) < 256 * 1024  # without a bound: megabytes
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 17_000


def taken_bytes(connection: socket.socket) -> int:
    """How much the kernel takes before it asks the writer to wait."""
    connection.settimeout(0.2)
    taken = 0
    with pytest.raises(TimeoutError):
        while True:
            taken += connection.send(b"x" * 4096)
    return taken
