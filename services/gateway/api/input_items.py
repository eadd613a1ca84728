"""`GET /v1/responses/{id}/input_items`: what a request brought, in pages."""

from starlette.requests import Request
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.envelope import json_response
from services.gateway.api.paging import page_of
from services.gateway.api.parts import Parts
from services.gateway.api.query import check_include
from services.gateway.api.tracing import server_span
from services.gateway.projections.input_items import input_items


async def list_input_items(request: Request, send: Send) -> None:
    """The request's own items (`projections.input_items`), the newest first unless asked otherwise."""
    parts: Parts = request.app.state.parts
    with server_span(request, "GET", "/v1/responses/{response_id}/input_items"):
        caller = parts.authenticator.caller(request)
        page = page_of(request.query_params)
        check_include(request.query_params)
        found = await parts.lookup.find(caller, request.path_params["response_id"])
        assert found.fold.accepted is not None  # else it is not found
        await sse.reply(json_response(page.of(input_items(found.fold.accepted))), request, send)
