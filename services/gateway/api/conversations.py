"""`/v1/conversations`: begin, look at, change and forget conversations."""

from starlette.requests import Request
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.conversation_schema import items_of, parse_conversation, parse_update
from services.gateway.api.envelope import json_response
from services.gateway.api.idempotency import repeatable_of
from services.gateway.api.item_references import resolve_items
from services.gateway.api.parts import Parts
from services.gateway.api.tracing import server_span
from services.gateway.projections.conversation_object import conversation_object

_ROUTE = "/v1/conversations"
_ONE = "/v1/conversations/{conversation_id}"


async def create(request: Request, send: Send) -> None:
    """POST /v1/conversations. Every field is optional, so no body at all will do."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", _ROUTE):
        caller = parts.authenticator.caller(request)
        sent = await read_body(request, parts.settings.body_limit_bytes)
        body = parse_object(sent) if sent else {}
        command = parse_conversation(body)
        repeatable = repeatable_of(request, caller, body)
        items = items_of(await resolve_items(parts, caller, command.items or [], "items"))
        created = await parts.conversations.create(caller, command.metadata or {}, items, repeatable)
        await sse.reply(json_response(conversation_object(created)), request, send)


async def retrieve(request: Request, send: Send) -> None:
    """GET /v1/conversations/{id}."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", _ONE):
        caller = parts.authenticator.caller(request)
        found = await parts.conversations.get(caller, request.path_params["conversation_id"])
        await sse.reply(json_response(conversation_object(found)), request, send)


async def update(request: Request, send: Send) -> None:
    """POST /v1/conversations/{id}."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", _ONE):
        caller = parts.authenticator.caller(request)
        body = parse_object(await read_body(request, parts.settings.body_limit_bytes))
        metadata = parse_update(body).metadata or {}
        repeatable = repeatable_of(request, caller, body)
        updated = await parts.conversations.update(caller, request.path_params["conversation_id"], metadata, repeatable)
        await sse.reply(json_response(conversation_object(updated)), request, send)


async def delete(request: Request, send: Send) -> None:
    """DELETE /v1/conversations/{id}: also while a response runs in it, which goes on for those who read it."""
    parts: Parts = request.app.state.parts
    with server_span(request, "DELETE", _ONE):
        caller = parts.authenticator.caller(request)
        await parts.conversations.erase(caller, request.path_params["conversation_id"])
        content = {"id": request.path_params["conversation_id"], "object": "conversation.deleted", "deleted": True}
        await sse.reply(json_response(content), request, send)
