"""`/v1/moderations`: what the server's policy makes of texts."""

from starlette.requests import Request
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.disconnect import until_disconnect
from services.gateway.api.envelope import json_response
from services.gateway.api.idempotency import repeatable_of
from services.gateway.api.moderation_schema import parse_moderation
from services.gateway.api.parts import Parts
from services.gateway.api.tracing import server_span
from services.gateway.projections.moderation import moderation_object
from shared.telemetry import names


async def create(request: Request, send: Send) -> None:
    """POST /v1/moderations. Nothing of it is kept."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/moderations") as span:
        caller = parts.authenticator.caller(request)
        body = parse_object(await read_body(request, parts.settings.body_limit_bytes))
        command = parse_moderation(body)
        repeatable = repeatable_of(request, caller, body)
        span.set_attribute(names.TENANT, caller.tenant)

        async def serve() -> None:
            judged = await parts.moderations.judge(caller, command.texts, command.model, repeatable)
            await sse.reply(json_response(moderation_object(judged.id, judged.results)), request, send)

        await until_disconnect(request.receive, parts.drain, serve())
