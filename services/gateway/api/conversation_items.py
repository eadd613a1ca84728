"""`/v1/conversations/{id}/items`: what was said in a conversation."""

from starlette.requests import Request
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.conversation_schema import items_of, parse_items
from services.gateway.api.envelope import json_response
from services.gateway.api.idempotency import repeatable_of
from services.gateway.api.item_references import resolve_items
from services.gateway.api.paging import listing, page_of
from services.gateway.api.parts import Parts
from services.gateway.api.query import check_include
from services.gateway.api.tracing import server_span
from services.gateway.projections.conversation_object import conversation_object
from services.gateway.projections.input_items import item_object

_ALL = "/v1/conversations/{conversation_id}/items"
_ONE = "/v1/conversations/{conversation_id}/items/{item_id}"


async def create(request: Request, send: Send) -> None:
    """POST /v1/conversations/{id}/items: answered with the items, in their order."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", _ALL):
        caller = parts.authenticator.caller(request)
        check_include(request.query_params)
        body = parse_object(await read_body(request, parts.settings.body_limit_bytes))
        command = parse_items(body)
        repeatable = repeatable_of(request, caller, body)
        conversation_id = request.path_params["conversation_id"]
        items = items_of(await resolve_items(parts, caller, command.items, "items", conversation_id))
        added = await parts.conversations.add_items(caller, conversation_id, items, repeatable)
        content = listing([item_object(item) for item in added], has_more=False)
        await sse.reply(json_response(content), request, send)


async def list_items(request: Request, send: Send) -> None:
    """GET /v1/conversations/{id}/items: the newest first unless asked otherwise."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", _ALL):
        caller = parts.authenticator.caller(request)
        page = page_of(request.query_params)
        check_include(request.query_params)
        found = await parts.conversations.items(
            caller, request.path_params["conversation_id"], limit=page.limit, order=page.order, after=page.after
        )
        content = listing([item_object(item) for item in found.items], has_more=found.has_more)
        await sse.reply(json_response(content), request, send)


async def retrieve(request: Request, send: Send) -> None:
    """GET /v1/conversations/{id}/items/{item_id}."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", _ONE):
        caller = parts.authenticator.caller(request)
        check_include(request.query_params)
        found = await parts.conversations.item(caller, **request.path_params)
        await sse.reply(json_response(item_object(found)), request, send)


async def delete(request: Request, send: Send) -> None:
    """DELETE /v1/conversations/{id}/items/{item_id}: answered with the conversation."""
    parts: Parts = request.app.state.parts
    with server_span(request, "DELETE", _ONE):
        caller = parts.authenticator.caller(request)
        left = await parts.conversations.erase_item(caller, **request.path_params)
        await sse.reply(json_response(conversation_object(left)), request, send)
