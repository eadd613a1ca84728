"""The OpenAPI 3.1 document of the HTTP surface, made of the table of operations and the models of bodies. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from services.gateway.api.operations import Operation, Parameter
from services.gateway.api.replies import ErrorEnvelope

VERSION = "1"
"""Of the surface: the `/v1` of its paths."""

_REF = "#/components/schemas/{model}"
_CONVERTOR = re.compile(r"\{(\w+):\w+\}")

_MEANING = {
    400: "The request is wrong and will never be accepted as it is.",
    401: "No API key, or an unknown one.",
    403: "Not from here: this server has no API keys and serves its own machine only, or the page's origin is foreign.",
    404: "No such thing, or another tenant's: nobody learns which ids exist.",
    409: "A request with the same idempotency key is still on its way.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "The idempotency key was used for another request.",
    429: "Too much at the moment, for the tenant's limits or for the mesh: try again after `retry-after`.",
    500: "The response failed.",
    503: "A part of the mesh does not answer, or this gateway is leaving: try again after `retry-after`.",
}
_KEYED = (401, 403, 500, 503)
_WITH_BODY = (400, 413, 415)

_INTRODUCTION = """\
A self-hosted ChatGPT backend that speaks OpenAI's Responses API and Chat Completions; any OpenAI SDK is a client.

Errors: every 4xx and 5xx has the body `{"error": {"message", "type", "param", "code"}}`, with all four keys.
Fields that a model here does not list are refused by name with 400, never ignored.
No text may hold a NUL character; every JSON number must fit 64 bits.
"""

_SOCKET = """\
The same path over WebSocket (RFC 6455): connect with the method GET and the usual upgrade headers.

The handshake authenticates like any request (401, 403). Every message is one JSON object in a text frame of at most
1 MiB; binary ones are answered with an `error`. Client events: `response.create` with the fields of
`POST /v1/responses` beside `type`, plus optional `stream_id` (`[A-Za-z0-9_.-]{1,256}`: a lane; FIFO within a lane, side
by side between lanes) and `generate`; and `response.steer`, which is answered with `response.steer.failed`. Server
events: those of the event stream, with `stream_id` on named lanes, and `error` with `status` and the envelope's object.
The query `response_id` and `starting_after` resumes a response in the default lane.
"""


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document: a JSON object, the same at every call."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(_CONVERTOR.sub(r"{\1}", operation.path), {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatmesh", "version": VERSION, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer YOUR_KEY`"}
            },
        },
        "x-websocket": {"/v1/responses": _SOCKET},
    }


class _Schemas(GenerateJsonSchema):
    """Without a title per field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    bodies = {operation.body: None for operation in operations if operation.body is not None}
    replies: dict[type[BaseModel], None] = {ErrorEnvelope: None}
    for operation in operations:
        replies |= dict.fromkeys([operation.reply, *operation.others.values()])
    models: list[tuple[type[BaseModel], Any]] = [(body, "validation") for body in bodies]
    models += [(reply, "serialization") for reply in replies]
    _, definitions = models_json_schema(models, ref_template=_REF, schema_generator=_Schemas)
    return dict(sorted(definitions["$defs"].items()))


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    if operation.public:
        described["security"] = []
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(operation.body)}}}
    described["responses"] = {str(status): reply for status, reply in sorted(_replies(operation).items())}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _replies(operation: Operation) -> dict[int, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(operation.reply)}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string", "description": operation.streams}}
    replies: dict[int, Any] = {200: _reply("As asked for.", content, _ALWAYS)}
    for status, model in operation.others.items():
        replies[status] = _reply("See the body.", {"application/json": {"schema": _ref(model)}}, _ALWAYS)
    envelope = {"application/json": {"schema": _ref(ErrorEnvelope)}}
    for status in {*operation.errors, *(() if operation.public else _KEYED), *(_WITH_BODY if operation.body else ())}:
        replies[status] = _reply(_MEANING[status], envelope, (*_ALWAYS, *_ON_ERROR.get(status, ())))
    return replies


def _reply(description: str, content: dict[str, Any], headers: Iterable[str]) -> dict[str, Any]:
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {"description": description, "headers": named, "content": content}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_LIMITS = tuple(
    f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
_ALWAYS = ("x-request-id", "openai-processing-ms", "openai-version", *_LIMITS)
_AGAIN = ("retry-after", "retry-after-ms")
_ON_ERROR = {401: ("www-authenticate",), 409: _AGAIN, 429: _AGAIN, 503: _AGAIN}
_HEADERS = {
    "x-request-id": _header("This reply's id, for the server's operators.", pattern="^req_[0-9a-f]{32}$"),
    "openai-processing-ms": _header("Milliseconds until the reply began.", pattern="^[0-9]+$"),
    "openai-version": _header("The version of OpenAI's API that this one follows."),
    **{
        name: _header("The caller's limit per minute, what is left, until when all is free; without limits not there.")
        for name in _LIMITS
    },
    "retry-after-ms": _header("Milliseconds after which to try again.", pattern="^[1-9][0-9]*$"),
    "retry-after": _header("Seconds after which to try again.", pattern="^[1-9][0-9]*$"),
    "www-authenticate": _header("How to authenticate.", const="Bearer"),
}
