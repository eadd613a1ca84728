"""An OTLP/HTTP collector for tests: keeps the spans that services export."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.brokers.ports import free_port
from deploy.tracing.graph import SpanEvent, SpanSeen


@dataclass
class Collector:
    """Listens on a loopback port inside its async context."""

    port: int = field(default_factory=free_port)
    spans: list[SpanSeen] = field(default_factory=list)
    exports: list[bytes] = field(default_factory=list)
    """Everything as it came."""

    @property
    def env(self) -> dict[str, str]:
        """What makes a service export to this collector, quickly."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "200"}

    async def __aenter__(self) -> Self:
        app = Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="error"))
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        self.exports.append(body)
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            attributes = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_seen(span, attributes) for span in scope.spans]
        return Response(status_code=200)

    def of_response(self, response_id: str) -> list[SpanSeen]:
        """Every span of the trace that the response belongs to."""
        traces = {s.trace_id for s in self.spans if s.attributes.get("gen_ai.response.id") == response_id}
        return [span for span in self.spans if span.trace_id in traces]


def _seen(span: Span, resource: dict[str, object]) -> SpanSeen:
    return SpanSeen(
        service=str(resource["service.name"]),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        events=tuple(SpanEvent(event.name, _attributes(event.attributes)) for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        status=span.status.message,
        resource=resource,
    )


def _attributes(given: Iterable[KeyValue]) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in given}
