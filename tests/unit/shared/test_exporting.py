"""Spans on their way out: what is said when nobody takes them, and that nothing which hangs holds up a shutdown."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from shared.errors import SettingsError
from shared.settings import MeshSettings
from shared.telemetry import exporting
from shared.telemetry.exporting import QuietExporter, export_from
from shared.telemetry.otlp import ENDPOINTS, Batching, batching, check_exporter
from shared.telemetry.tracing import start_telemetry
from shared.topics import Service

ENDPOINT = ENDPOINTS[0]
SECRET = "sk-hunter2"


class Flaky(SpanExporter):
    """Takes spans or does not."""

    def __init__(self) -> None:
        self.takes = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing is open."""


class Broken(Flaky):
    """Fails where its port says that it never does."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise LookupError(SECRET)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "shared.telemetry")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("shared.")]


def test_an_endpoint_that_takes_nothing_is_told_of_once_and_once_when_it_does(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://ui:4318")
    flaky = Flaky()
    exporter = QuietExporter(flaky, lambda: "HTTP 401")
    for takes in (False, False, True, True, False):
        flaky.takes = takes
        exporter.export([])
    refused = "traces are not taken by http://ui:4318 (HTTP 401): they are dropped until they are"
    assert told() == [refused, "traces are taken again", refused]


def test_an_exporter_that_breaks_is_told_of_by_the_kind_of_its_error(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://ui:4318")
    assert QuietExporter(Broken()).export([]) is SpanExportResult.FAILURE
    assert told() == ["traces are not taken by http://ui:4318 (LookupError): they are dropped until they are"]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (f"https://user:{SECRET}@traces.example:4318/v1?key={SECRET}", "https://traces.example:4318"),
        (f"http://[::1]:4318/{SECRET}", "http://[::1]:4318"),
        (f"user:{SECRET}@traces.example", "the endpoint"),
        (f"http://traces.example:{SECRET}/", "the endpoint"),
    ],
)
def test_an_endpoint_is_named_without_what_may_be_secret(
    url: str, named: str, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS[1], url)
    QuietExporter(Flaky()).export([])
    assert told() == [f"traces are not taken by {named} (they cannot be sent): they are dropped until they are"]


# -- the exporter as it is -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def queue_logger() -> Iterator[None]:
    """Each exporter listens to the logger of the SDK's queue, which belongs to the process."""
    logger = logging.getLogger("opentelemetry.sdk._shared_internal")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Starts a collector that answers with a status; its address."""
    servers: list[HTTPServer] = []

    def serve(status: int) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not to stderr."""

        servers.append(HTTPServer(("127.0.0.1", 0), Answers))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a collector that takes requests and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def export_one_span() -> Callable[[], None]:
    """What sends it, and whatever else there is, at shutdown."""
    provider = TracerProvider(shutdown_on_exit=False)
    stop = export_from(provider)
    provider.get_tracer("test").start_span("work").end()
    return stop


def test_a_collector_that_refuses_is_told_of_with_its_status(
    answering: Callable[[int], str], told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LAST_WORDS_S", 10.0)
    monkeypatch.setenv(ENDPOINT, answering(401))
    export_one_span()()
    (line,) = told()
    assert "(HTTP 401)" in line


def test_where_nobody_listens_the_line_says_so(told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_LAST_WORDS_S", 10.0)
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    export_one_span()()
    (line,) = told()
    assert "(ConnectionError)" in line


def test_a_collector_that_hangs_holds_up_no_shutdown(
    silent: str, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LAST_WORDS_S", 0.2)
    monkeypatch.setenv(ENDPOINT, silent)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    stop = export_one_span()
    begun_s = time.monotonic()
    stop()
    assert time.monotonic() - begun_s < 4.0
    assert told() == [f"the last traces are not taken by {silent} in time: they are dropped"]


def test_a_queue_that_overflows_is_told_of_once(
    silent: str, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LAST_WORDS_S", 0.0)
    monkeypatch.setenv(ENDPOINT, silent)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    provider = TracerProvider(shutdown_on_exit=False)
    stop = export_from(provider)
    tracer = provider.get_tracer("test")
    for _ in range(20):
        tracer.start_span("work").end()
    assert told() == [f"traces are dropped: {silent} takes them more slowly than they come (OTEL_BSP_MAX_QUEUE_SIZE)"]
    stop()


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADERS", f"Authorization:Bearer {SECRET}", "write name=value[,name=value], values URL-encoded; entry 1"),
        ("HEADERS", f"a=b,{SECRET}", "entry 2 is not that"),
        ("HEADERS", f"api-key={SECRET}%0Ax", "entry 1 is not that"),
        ("TRACES_HEADERS", f"api-key={SECRET};x", "entry 1 is not that"),
        ("ENDPOINT", f"user:{SECRET}@collector:4318", "is no address: write http://host:port"),
        ("TRACES_ENDPOINT", "collector:4318/v1/traces", "is no address: write http://host:port"),
        ("TIMEOUT", "soon", "must be seconds above 0 (got 'soon')"),
        ("TIMEOUT", "nan", "must be seconds above 0 (got 'nan')"),
        ("COMPRESSION", "zip", "must be one of none, gzip, deflate (got 'zip')"),
        ("CERTIFICATE", "/nowhere/ca.pem", "cannot read /nowhere/ca.pem"),
    ],
)
def test_what_the_exporter_could_not_use_is_a_wrong_setting(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_exporter({f"OTEL_EXPORTER_OTLP_{name}": value})
    assert f"OTEL_EXPORTER_OTLP_{name}: " in str(refused.value)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_what_the_exporter_can_use_is_none() -> None:
    check_exporter(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:secret@[::1]:4318/base",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20sk-1, x-scope = two words,",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": __file__,
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "",
        }
    )


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5"])
@pytest.mark.parametrize("name", ["SCHEDULE_DELAY", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE"])
def test_what_no_queue_can_be_is_a_wrong_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"OTEL_BSP_{name}: must be a whole number above 0 \(got '{value}'\)"):
        batching({f"OTEL_BSP_{name}": value})


def test_a_batch_must_fit_into_the_queue() -> None:
    with pytest.raises(SettingsError, match="OTEL_BSP_MAX_QUEUE_SIZE is 10, less than OTEL_BSP_MAX_EXPORT_BATCH_SIZE"):
        batching({"OTEL_BSP_MAX_QUEUE_SIZE": "10"})
    assert batching({"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BSP_MAX_QUEUE_SIZE": ""}) == Batching(delay_ms=200)


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_BSP_SCHEDULE_DELAY", "0"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")]
)
def test_a_service_whose_traces_are_set_up_wrongly_says_what_is_wrong(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        start_telemetry(MeshSettings(), Service.HISTORY, "history-1")
