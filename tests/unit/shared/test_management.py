"""The management endpoint: what it answers, that nobody can occupy it, and that a busy event loop does not hold it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from shared.errors import SettingsError
from shared.lifetime import Lifetime, Stop
from shared.records import Heartbeat
from shared.settings import MeshSettings
from shared.telemetry import management
from shared.telemetry.management import LOOP_SILENT_S, STATES, LoopWatch, Management, Pages, serve_management
from shared.telemetry.metrics import Metrics
from shared.topics import Service

TIMEOUT_S = 5.0


class Standing:
    """How the service stands, as a test wants it."""

    def __init__(self) -> None:
        self.beat = Heartbeat(service="history", id="history-1", state="ready", seq=1)
        self.silent_s = 0.0
        self.registry = CollectorRegistry()

    def pages(self) -> Pages:
        return Pages(self.registry, lambda: self.beat, lambda: self.silent_s)


@pytest.fixture
def standing() -> Standing:
    return Standing()


@pytest.fixture
async def endpoint(standing: Standing) -> AsyncIterator[Management]:
    served = Management("127.0.0.1", 0, standing.pages())
    await served.start()
    yield served
    await served.stop()


@pytest.fixture
async def client(endpoint: Management) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{endpoint.port}", timeout=TIMEOUT_S) as client:
        yield client


def histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("waited_seconds", "Waited", registry=registry, buckets=(1.0,))


# -- pages ---------------------------------------------------------------------------------------------------


async def test_metrics_are_told_as_prometheus_text_and_as_openmetrics_with_exemplars(
    client: httpx.AsyncClient, standing: Standing
) -> None:
    histogram(standing.registry).observe(0.5, {"trace_id": "ab" * 16})
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "ab" * 16 not in plain.text
    assert "waited_seconds" in [family.name for family in parse_text(plain.text)]
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    full = await client.get("/metrics", headers={"accept": asked})
    assert full.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    (family,) = parse_openmetrics(full.text)
    assert [s.exemplar.labels for s in family.samples if s.exemplar] == [{"trace_id": "ab" * 16}]


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=x", "text/plain;version=", "\x7f"])
async def test_whatever_is_accepted_gets_metrics_or_a_reason(client: httpx.AsyncClient, accept: str) -> None:
    answer = await client.get("/metrics", headers={b"accept": accept.encode()})
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize(("state", "status"), [("starting", 503), ("ready", 200), ("draining", 503)])
async def test_ready_is_who_beats_ready(client: httpx.AsyncClient, standing: Standing, state: Any, status: int) -> None:
    standing.beat = Heartbeat(service="history", id="history-1", state=state, seq=1, detail="opening the store")
    answer = await client.get("/readyz")
    assert answer.status_code == status
    assert answer.json() == {"service": "history", "id": "history-1", "state": state, "detail": "opening the store"}


async def test_healthy_is_whose_event_loop_turns(client: httpx.AsyncClient, standing: Standing) -> None:
    standing.silent_s = LOOP_SILENT_S
    assert (await client.get("/healthz")).status_code == 200
    standing.silent_s = LOOP_SILENT_S + 12
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "the event loop has not turned for 42 s\n")


async def test_other_paths_methods_and_nonsense_are_refused(client: httpx.AsyncClient, endpoint: Management) -> None:
    assert (await client.get("/")).status_code == 404
    assert (await client.post("/metrics")).status_code == 405
    assert (await client.head("/healthz")).text == ""
    assert (await client.get("/healthz?x=1")).status_code == 200
    assert (await said(endpoint, b"hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_metric_that_cannot_be_read_is_logged_and_told(
    client: httpx.AsyncClient, standing: Standing, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Collector):
        def collect(self) -> Any:
            raise ZeroDivisionError

    standing.registry.register(Broken())
    assert (await client.get("/metrics")).status_code == 500
    assert "ZeroDivisionError" in caplog.text
    assert (await client.get("/healthz")).status_code == 200


# -- bounds --------------------------------------------------------------------------------------------------


async def said(endpoint: Management, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
    writer.write(request)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await reader.read()
    finally:
        writer.close()


async def test_a_long_head_is_refused(endpoint: Management) -> None:
    answer = await said(endpoint, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (2 * management.MAX_HEAD_BYTES))
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_who_says_nothing_is_left_after_a_while(
    endpoint: Management, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "REQUEST_TIMEOUT_S", 0.2)
    assert await said(endpoint, b"GET /metr") == b""
    assert (await client.get("/healthz")).status_code == 200


async def silent(endpoint: Management, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """So many connections that say nothing, in the order they came."""
    connections = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(count)]
    async with asyncio.timeout(TIMEOUT_S):
        while len(endpoint._open) < min(count, management.MAX_CONNECTIONS):
            await asyncio.sleep(0.01)
    return connections


async def test_whoever_says_nothing_gives_way_to_a_probe(
    endpoint: Management, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "MAX_CONNECTIONS", 2)
    (oldest, first), (newer, second) = await silent(endpoint, 2)
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    async with asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(ConnectionResetError):
            assert await oldest.read() == b"", "the oldest is dropped"
    second.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(TIMEOUT_S):
        assert (await newer.read()).startswith(b"HTTP/1.1 200 "), "and no other"
    first.close()
    second.close()


async def test_who_takes_no_answer_gives_way_too(
    endpoint: Management, client: httpx.AsyncClient, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "MAX_CONNECTIONS", 2)
    wide = Gauge("wide", "Too much for a socket's buffers", ["name"], registry=standing.registry)
    for number in range(100):
        wide.labels(str(number) + "x" * 200_000)
    connections = await silent(endpoint, 2)
    for _, writer in connections:
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(TIMEOUT_S):
        while list(endpoint._open.values()) != [True, True]:
            await asyncio.sleep(0.01)
    assert (await client.get("/healthz")).status_code == 200
    for _, writer in connections:
        writer.transport.abort()


async def test_connections_that_are_open_at_the_end_are_no_errors(
    standing: Standing, caplog: pytest.LogCaptureFixture
) -> None:
    served = Management("127.0.0.1", 0, standing.pages())
    await served.start()
    connections = await silent(served, 2)
    await served.stop()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    for reader, writer in connections:
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_busy_event_loop_does_not_hold_a_probe(endpoint: Management) -> None:
    answers: list[httpx.Response] = []
    probe = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{endpoint.port}/healthz")))
    probe.start()
    probe.join(TIMEOUT_S)  # holds the event loop of this thread
    assert [answer.status_code for answer in answers] == [200]


# -- the event loop that is watched --------------------------------------------------------------------------


async def test_a_loop_that_turns_owes_nothing() -> None:
    now_s = [0.0]
    watch = LoopWatch(asyncio.get_running_loop(), lambda: now_s[0])
    for _ in range(3):
        assert watch.silent_s() == 0.0
        await asyncio.sleep(0)
        now_s[0] += 100.0


async def test_a_loop_that_stands_still_is_silent_since_it_was_asked() -> None:
    now_s = [5.0]
    watch = LoopWatch(asyncio.get_running_loop(), lambda: now_s[0])
    assert watch.silent_s() == 0.0
    now_s[0] += 31.0
    assert watch.silent_s() == 31.0
    await asyncio.sleep(0)
    assert watch.silent_s() == 0.0


def test_a_closed_loop_is_silent_for_ever() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    watch = LoopWatch(loop)
    assert watch.silent_s() == float("inf")
    assert watch.silent_s() == float("inf")


# -- beginning and end ---------------------------------------------------------------------------------------


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"CHATMESH_MANAGEMENT_PORT: cannot listen on 127.0.0.1:{port}"):
            await Management("127.0.0.1", port, Standing().pages()).start()


async def test_without_a_port_there_is_no_endpoint(standing: Standing) -> None:
    threads = threading.active_count()
    async with Lifetime(Stop(), 1.0) as life:
        await serve_management(life, MeshSettings(), Metrics(Service.HISTORY), lambda: standing.beat)
        assert threading.active_count() == threads


async def test_a_service_shows_its_state_and_its_process_until_its_end(
    standing: Standing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    metrics = Metrics(Service.HISTORY, "history-1")
    async with Lifetime(Stop(), 1.0) as life:
        await serve_management(life, MeshSettings(management_port=0, partitions=8), metrics, lambda: standing.beat)
        (line,) = [record.message for record in caplog.records if "management endpoint" in record.message]
        url = line.rpartition(" ")[2]
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
            lines = (await client.get("/metrics")).text.splitlines()
    assert 'chatmesh_service_state{state="ready"} 1.0' in lines
    assert 'chatmesh_service_state{state="draining"} 0.0' in lines
    assert "chatmesh_partitions 8.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert any(line.startswith("target_info{") and 'service_instance_id="history-1"' in line for line in lines)
    async with httpx.AsyncClient() as late:
        with pytest.raises(httpx.ConnectError):
            await late.get(url + "/healthz")


def test_the_states_are_those_of_heartbeats() -> None:
    assert get_args(get_type_hints(Heartbeat)["state"]) == STATES
