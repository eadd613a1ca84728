"""What trace UIs know of a response, asked through their APIs."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import httpx

from deploy.local.access import http_options
from deploy.local.errors import RunError
from deploy.tracing.graph import SpanEvent, SpanSeen
from deploy.tracing.settings import PROJECT
from shared.telemetry import names
from shared.topics import Service

_TIMEOUT_S = 10.0
_PAGE = 1000


class TraceUi(Protocol):
    """A UI's API."""

    def spans_of(self, response_id: str) -> list[SpanSeen]:
        """All spans of all traces in which a span names the response. Raises RunError when the UI does not answer."""
        ...


class PhoenixUi:
    """Arize Phoenix, `GET /v1/projects/…/spans`. It keeps no resources and no links: our spans name their service."""

    def __init__(self, address: str) -> None:
        self._spans = f"{address.rstrip('/')}/v1/projects/{PROJECT}/spans"

    def spans_of(self, response_id: str) -> list[SpanSeen]:
        """See `TraceUi`."""
        naming = self._get({"attribute": f"{names.RESPONSE_ID}:{response_id}"})
        traces = sorted({span["context"]["trace_id"] for span in naming})
        found = self._get({"trace_id": traces}) if traces else []
        return [_of_phoenix(span) for span in found]

    def _get(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Page by page: a client's trace may hold more than one page has."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            page = _get(self._spans, {**query, **cursor, "limit": _PAGE}, unknown={"data": []})
            found += page["data"]
            if not (page["data"] and page.get("next_cursor")):
                return found
            cursor = {"cursor": page["next_cursor"]}


def _of_phoenix(span: dict[str, Any]) -> SpanSeen:
    return SpanSeen(
        service=str(span["attributes"].get(names.SERVICE, "")),
        name=span["name"],
        trace_id=span["context"]["trace_id"],
        span_id=span["context"]["span_id"],
        parent_id=span["parent_id"] or "",
        attributes=span["attributes"],
        events=tuple(SpanEvent(event["name"], event["attributes"]) for event in span["events"]),
        status=span["status_message"],
    )


class JaegerUi:
    """Jaeger 1 and 2, `GET /api/traces`."""

    def __init__(self, address: str) -> None:
        self._traces = f"{address.rstrip('/')}/api/traces"

    def spans_of(self, response_id: str) -> list[SpanSeen]:
        """See `TraceUi`."""
        found: dict[str, SpanSeen] = {}
        for service in (Service.MODERATION, Service.GATEWAY):  # a trace of a resume has no span of moderation
            tags = json.dumps({names.RESPONSE_ID: response_id})
            query = {"service": service.value, "tags": tags, "lookback": "2d", "limit": 50}
            for trace in _get(self._traces, query, unknown={"data": []})["data"] or ():
                found |= {span.span_id: span for span in _of_jaeger(trace)}
        return list(found.values())


def _of_jaeger(trace: dict[str, Any]) -> Iterable[SpanSeen]:
    for span in trace["spans"]:
        references = span.get("references") or ()
        parents = [each["spanID"] for each in references if each["refType"] == "CHILD_OF"]
        attributes = _tags(span)
        yield SpanSeen(
            service=trace["processes"][span["processID"]]["serviceName"],
            name=span["operationName"],
            trace_id=span["traceID"],
            span_id=span["spanID"],
            parent_id=parents[0] if parents else "",
            attributes=attributes,
            events=tuple(_event(_fields(log)) for log in span.get("logs") or ()),
            links=tuple((each["traceID"], each["spanID"]) for each in references if each["refType"] != "CHILD_OF"),
            status=str(attributes.get("otel.status_description", "")),
        )


def _tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span.get("tags") or ()}


def _fields(log: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in log["fields"]}


def _event(fields: dict[str, Any]) -> SpanEvent:
    return SpanEvent(str(fields.pop("event", "")), fields)


UIS: Mapping[str, Callable[[str], TraceUi]] = {"phoenix": PhoenixUi, "jaeger": JaegerUi}


def _get(url: str, query: dict[str, Any], *, unknown: dict[str, Any]) -> dict[str, Any]:
    """The JSON at `url`; `unknown` where the UI has nothing of that name yet. Raises RunError, SettingsError."""
    try:
        answer = httpx.get(url, params=query, timeout=_TIMEOUT_S, **http_options(url))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return unknown
        answer.raise_for_status()
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise RunError(f"the trace UI at {url} does not answer as expected: {error}") from error
    if not isinstance(content, dict) or "data" not in content:
        raise RunError(f"the trace UI at {url} does not answer as expected: there is no `data`; is it that of --ui?")
    return content
