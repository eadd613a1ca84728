"""What is read of Phoenix's and of Jaeger's answers."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from deploy.local.errors import RunError
from deploy.tracing import uis
from deploy.tracing.graph import SpanEvent, SpanSeen
from deploy.tracing.uis import JaegerUi, PhoenixUi

PHOENIX = {
    "name": "screen output",
    "context": {"trace_id": "t1", "span_id": "s2"},
    "parent_id": "s1",
    "status_message": "",
    "attributes": {"chatmesh.service": "moderation", "gen_ai.response.id": "resp_1"},
    "events": [{"name": "chatmesh.takeover", "timestamp": "…", "attributes": {"chatmesh.reason": "silent"}}],
}
JAEGER = {
    "processes": {"p1": {"serviceName": "moderation"}},
    "spans": [
        {
            "traceID": "t1",
            "spanID": "s2",
            "operationName": "screen output",
            "processID": "p1",
            "references": [
                {"refType": "CHILD_OF", "traceID": "t1", "spanID": "s1"},
                {"refType": "FOLLOWS_FROM", "traceID": "t9", "spanID": "s9"},
            ],
            "tags": [{"key": "gen_ai.response.id", "type": "string", "value": "resp_1"}],
            "logs": [
                {
                    "timestamp": 1,
                    "fields": [
                        {"key": "event", "value": "chatmesh.takeover"},
                        {"key": "chatmesh.reason", "value": "silent"},
                    ],
                }
            ],
        }
    ],
}
TAKEOVER = (SpanEvent("chatmesh.takeover", {"chatmesh.reason": "silent"}),)


def answering(monkeypatch: pytest.MonkeyPatch, status: int, *contents: object) -> list[httpx.URL]:
    """One content after the other, the last one for ever."""
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(status, json=contents[min(len(asked), len(contents)) - 1])

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(uis.httpx, "get", lambda url, *, params, **_: client.get(url, params=params))
    return asked


def test_phoenix_names_the_service_in_an_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, 200, {"data": [PHOENIX]})
    (span,) = PhoenixUi("http://ui:6006/").spans_of("resp_1")
    assert span == SpanSeen("moderation", "screen output", "t1", "s2", "s1", span.attributes, TAKEOVER)
    assert asked[0].params["attribute"] == "gen_ai.response.id:resp_1"
    assert asked[1].params["trace_id"] == "t1"
    assert {url.path for url in asked} == {"/v1/projects/default/spans"}


def test_all_pages_of_a_trace_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    naming = {"data": [PHOENIX], "next_cursor": None}
    asked = answering(monkeypatch, 200, naming, {"data": [PHOENIX] * 2, "next_cursor": "U3Bhbg=="}, naming)
    assert len(PhoenixUi("http://ui").spans_of("resp_1")) == 3
    assert [url.params.get("cursor") for url in asked] == [None, None, "U3Bhbg=="]
    assert asked[2].params["trace_id"] == "t1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_ui_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert PhoenixUi(f"http://{host}:{server.server_port}").spans_of("resp_1") == []
        server.shutdown()


def test_jaeger_names_it_with_the_process_and_shows_links(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, 200, {"data": [JAEGER]})
    (span,) = JaegerUi("http://ui:16686").spans_of("resp_1")
    links = (("t9", "s9"),)
    attributes = {"gen_ai.response.id": "resp_1"}
    assert span == SpanSeen("moderation", "screen output", "t1", "s2", "s1", attributes, TAKEOVER, links)
    assert asked[0].params["tags"] == '{"gen_ai.response.id": "resp_1"}'


@pytest.mark.parametrize("ui", [PhoenixUi, JaegerUi])
def test_what_is_not_known_yet_is_no_error(monkeypatch: pytest.MonkeyPatch, ui: type[PhoenixUi | JaegerUi]) -> None:
    answering(monkeypatch, 404, {"detail": "no such project"})
    assert ui("http://ui").spans_of("resp_1") == []


@pytest.mark.parametrize("ui", [PhoenixUi, JaegerUi])
def test_a_ui_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, ui: type[PhoenixUi | JaegerUi]) -> None:
    answering(monkeypatch, 500, {})
    with pytest.raises(RunError, match=r"the trace UI at http://ui/.* does not answer as expected"):
        ui("http://ui").spans_of("resp_1")


@pytest.mark.parametrize("content", [{}, [], "hello"])
@pytest.mark.parametrize("ui", [PhoenixUi, JaegerUi])
def test_what_is_no_trace_ui_is_named(
    monkeypatch: pytest.MonkeyPatch, ui: type[PhoenixUi | JaegerUi], content: object
) -> None:
    answering(monkeypatch, 200, content)
    with pytest.raises(RunError, match=r"the trace UI at http://ui/.* does not answer as expected: there is no `data`"):
        ui("http://ui").spans_of("resp_1")


@pytest.mark.parametrize("ui", [PhoenixUi, JaegerUi])
def test_what_no_client_can_ask_is_named(ui: type[PhoenixUi | JaegerUi]) -> None:
    with pytest.raises(RunError, match="does not answer as expected: Invalid port: 'abc'"):
        ui("http://127.0.0.1:abc").spans_of("resp_1")
