"""`/healthz`: this process answers. `/readyz`: the mesh behind it can answer a request."""

from starlette.requests import Request
from starlette.responses import Response

from services.gateway.api.envelope import json_response
from services.gateway.api.parts import Parts
from services.gateway.catalogue import missing_parts


async def healthz(_: Request) -> Response:
    """200 as long as the event loop turns."""
    return json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """200 when a request would be answered, else 503 with what is missing, in words."""
    parts: Parts = request.app.state.parts
    missing = missing_parts(parts.cluster, parts.settings.partitions)
    if parts.drain.begun.done():
        missing.insert(0, "this gateway is shutting down")
    if not parts.fanout.home:
        missing.insert(0, "the gateway has no home partitions yet")
    status = {"status": "ready" if not missing else "waiting", "missing": missing}
    return json_response(status, status=503 if missing else 200)
