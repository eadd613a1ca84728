"""An OTLP/HTTP collector for tests: keeps the spans that services export."""

import asyncio
from dataclasses import dataclass, field
from typing import Self

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.mesh import free_port


@dataclass(frozen=True)
class SpanSeen:
    """One exported span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, object]


@dataclass
class Collector:
    """Listens on a loopback port inside its async context."""

    port: int = field(default_factory=free_port)
    spans: list[SpanSeen] = field(default_factory=list)

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
        export = ExportTraceServiceRequest.FromString(await request.body())
        for resource in export.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    SpanSeen(
                        attributes["service.name"],
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        {
                            a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value")
                            for a in span.attributes
                        },
                    )
                    for span in scope.spans
                ]
        return Response(status_code=200)

    def of_response(self, response_id: str) -> list[SpanSeen]:
        """Every span of the trace that the response belongs to."""
        traces = {s.trace_id for s in self.spans if s.attributes.get("gen_ai.response.id") == response_id}
        return [span for span in self.spans if span.trace_id in traces]
