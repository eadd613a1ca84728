"""Every HTTP operation of a gateway, once: the router and the published document are made of this table.

A new operation is a new row here; then `make openapi` writes docs/openapi.json again.
"""

from functools import cache
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.gateway.api import chat, conversation_items, conversations, moderations, replies
from services.gateway.api.chat_replies import ChatCompletion
from services.gateway.api.chat_schema import CreateCompletion
from services.gateway.api.conversation_schema import CreateConversation, CreateItems, UpdateConversation
from services.gateway.api.health import healthz, readyz
from services.gateway.api.input_items import list_input_items
from services.gateway.api.input_tokens import CountInputTokens, count_input_tokens
from services.gateway.api.models import list_models, retrieve_model
from services.gateway.api.moderation_schema import CreateModeration
from services.gateway.api.openapi import document
from services.gateway.api.operations import Operation, Parameter
from services.gateway.api.paging import MAX_ITEMS
from services.gateway.api.responses import cancel, create, delete, retrieve
from services.gateway.api.schema import LOGPROBS, CreateResponse
from services.gateway.api.sse import Endpoint

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"

_EVENTS = (
    "Server-sent events, `event: <type>` and `data: <JSON>`, where `type` and a `sequence_number` that counts from 0 "
    "stand in the JSON too: `response.created`, `response.in_progress`, `response.output_item.added`, "
    "`response.content_part.added`, `response.output_text.delta`, `response.output_text.done`, "
    "`response.content_part.done`, `response.output_item.done`, then one of `response.completed`, "
    "`response.incomplete` and `response.failed`. A connection that breaks off before that last one can be resumed."
)
_CHUNKS = (
    "Server-sent events `data: <chat.completion.chunk>`: for each choice one with the role, those with content, one "
    "with `finish_reason` (a cancelled choice has none); with `moderation` one with the results and no choices; with "
    "`stream_options.include_usage` one with `usage` and no choices; "
    'then `data: [DONE]`. If a choice fails, `data: {"error": …}` is the last event, without `[DONE]`.'
)
_RESPONSE_ID = Parameter("response_id", {"type": "string", "minLength": 1}, "`resp_…`, or a `chatcmpl-…`", "path")
_CONVERSATION_ID = Parameter("conversation_id", {"type": "string", "minLength": 1}, "`conv_…`", "path")
_ITEM_ID = Parameter("item_id", {"type": "string", "minLength": 1}, "`msg_…`", "path")
_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "a name for the request: sent again with it, it is answered with the first one's response",
    "header",
)
_STREAM = Parameter(
    "stream", {"type": "string", "enum": ["true", "false", "1", "0"]}, "whether to send events instead of one object"
)
_INCLUDE = Parameter(
    "include[]",
    {"type": "array", "items": {"const": LOGPROBS}},
    "`include` means the same; log probabilities are there wherever the response was asked for them",
)
_ITEMS_INCLUDE = Parameter(
    "include[]",
    {"type": "array", "items": {"const": LOGPROBS}},
    "`include` means the same; items are kept without log probabilities",
)
_OBFUSCATION = Parameter(
    "include_obfuscation", {"type": "string", "enum": ["false", "0"]}, "with `stream`: events are never padded"
)
_PAGE = (
    Parameter("after", {"type": "string"}, "the id of the last item of the page before"),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_ITEMS}, "items per page, 20 if not said"),
    Parameter("order", {"type": "string", "enum": ["asc", "desc"]}, "`desc` if not said: the newest first"),
)
_STARTING_AFTER = Parameter(
    "starting_after",
    {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
    "with `stream`: only events whose `sequence_number` is greater",
)


async def published(_: Request) -> Response:
    """GET /openapi.json."""
    return Response(_encoded(), media_type="application/json")


OPERATIONS = (
    Operation(
        "POST", "/v1/responses", Endpoint(create), "createResponse", "Ask for a response.", replies.Response,
        body=CreateResponse, streams=_EVENTS, parameters=(_IDEMPOTENCY_KEY,), errors=(404, 409, 422, 429),
    ),
    Operation(
        "GET", "/v1/responses/{response_id}", Endpoint(retrieve), "retrieveResponse",
        "A response as of now, or its events, replayed and then live.", replies.Response, streams=_EVENTS,
        parameters=(_RESPONSE_ID, _STREAM, _STARTING_AFTER, _INCLUDE, _OBFUSCATION), errors=(400, 404, 429),
    ),
    Operation(
        "DELETE", "/v1/responses/{response_id}", Endpoint(delete), "deleteResponse",
        "Forget a response, which is cancelled first if it still runs: nobody finds it any more.",
        replies.DeletedResponse, parameters=(_RESPONSE_ID,), errors=(404,),
    ),
    Operation(
        "GET", "/v1/responses/{response_id}/input_items", Endpoint(list_input_items), "listInputItems",
        "What the request itself brought, without its instructions and the turns before it.", replies.InputItemList,
        parameters=(_RESPONSE_ID, *_PAGE, _INCLUDE), errors=(400, 404),
    ),
    Operation(
        "POST", "/v1/responses/input_tokens", Endpoint(count_input_tokens), "countInputTokens",
        "How long the prompt of a request would be, stored context included.", replies.InputTokens,
        body=CountInputTokens, errors=(404,),
    ),
    Operation(
        "POST", "/v1/responses/{response_id}/cancel", Endpoint(cancel), "cancelResponse",
        "End a response that still runs; the same answer however often it is asked for.", replies.Response,
        parameters=(_RESPONSE_ID,), errors=(400, 404),
    ),
    Operation(
        "POST", "/v1/chat/completions", Endpoint(chat.create), "createChatCompletion",
        "Ask for a response as Chat Completions do.", ChatCompletion,
        body=CreateCompletion, streams=_CHUNKS, parameters=(_IDEMPOTENCY_KEY,), errors=(404, 409, 422, 429),
    ),
    Operation(
        "POST", "/v1/moderations", Endpoint(moderations.create), "createModeration",
        "What the server's policy makes of texts, in OpenAI's 13 categories.", replies.Moderations,
        body=CreateModeration, parameters=(_IDEMPOTENCY_KEY,), errors=(404, 422, 429),
    ),
    Operation(
        "POST", "/v1/conversations", Endpoint(conversations.create), "createConversation",
        "Begin a conversation, empty or with items.", replies.Conversation,
        body=CreateConversation, parameters=(_IDEMPOTENCY_KEY,), errors=(404, 422, 429),
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}", Endpoint(conversations.retrieve), "retrieveConversation",
        "A conversation, without its items.", replies.Conversation, parameters=(_CONVERSATION_ID,), errors=(404,),
    ),
    Operation(
        "POST", "/v1/conversations/{conversation_id}", Endpoint(conversations.update), "updateConversation",
        "Replace a conversation's metadata.", replies.Conversation,
        body=UpdateConversation, parameters=(_CONVERSATION_ID, _IDEMPOTENCY_KEY), errors=(404, 422, 429),
    ),
    Operation(
        "DELETE", "/v1/conversations/{conversation_id}", Endpoint(conversations.delete), "deleteConversation",
        "Forget a conversation, its items and the responses that ran in it.", replies.DeletedConversation,
        parameters=(_CONVERSATION_ID,), errors=(404,),
    ),
    Operation(
        "POST", "/v1/conversations/{conversation_id}/items", Endpoint(conversation_items.create),
        "createConversationItems", "Add items at a conversation's end, all or none.", replies.ConversationItemList,
        body=CreateItems, parameters=(_CONVERSATION_ID, _IDEMPOTENCY_KEY, _ITEMS_INCLUDE), errors=(404, 422, 429),
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}/items", Endpoint(conversation_items.list_items),
        "listConversationItems", "What was said in a conversation.", replies.ConversationItemList,
        parameters=(_CONVERSATION_ID, *_PAGE, _ITEMS_INCLUDE), errors=(400, 404),
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}/items/{item_id}", Endpoint(conversation_items.retrieve),
        "retrieveConversationItem", "One item.", replies.ConversationItem,
        parameters=(_CONVERSATION_ID, _ITEM_ID, _ITEMS_INCLUDE), errors=(400, 404),
    ),
    Operation(
        "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", Endpoint(conversation_items.delete),
        "deleteConversationItem", "Forget an item, and the response that brought it.", replies.Conversation,
        parameters=(_CONVERSATION_ID, _ITEM_ID), errors=(404,),
    ),
    Operation("GET", "/v1/models", list_models, "listModels", "What living workers serve.", replies.ModelList),
    Operation(
        "GET", "/v1/models/{model:path}", retrieve_model, "retrieveModel", "One model.", replies.Model,
        parameters=(Parameter("model", {"type": "string", "minLength": 1}, "its id; it may hold slashes", "path"),),
        errors=(404,),
    ),
    Operation(
        "GET", "/healthz", healthz, "healthz", "Whether this process answers.", replies.Alive, public=True
    ),
    Operation(
        "GET", "/readyz", readyz, "readyz", "Whether a request would be answered.", replies.Readiness, public=True,
        others={503: replies.Readiness},
    ),
    Operation(
        "GET", "/openapi.json", published, "openapi", "This document.", replies.Document, public=True
    ),
)  # fmt: skip


PATHS = {operation.endpoint: operation.path for operation in OPERATIONS}
"""Endpoint → path, as the router has it."""


def http_routes() -> list[Route]:
    """The router's part of the table."""
    return [operation.route() for operation in OPERATIONS]


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document(OPERATIONS))


def written() -> str:
    """The document as docs/openapi.json holds it."""
    return msgspec.json.format(_encoded(), indent=1).decode() + "\n"


if __name__ == "__main__":
    PUBLISHED.parent.mkdir(exist_ok=True)
    PUBLISHED.write_text(written(), encoding="utf-8")
