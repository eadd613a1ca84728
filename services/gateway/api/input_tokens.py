"""`POST /v1/responses/input_tokens`: how long the prompt of a request would be, without running it."""

import asyncio
from typing import Any, Literal

from starlette.requests import Request
from starlette.types import Send

from services.gateway.api import sse
from services.gateway.api.body import parse_object, read_body
from services.gateway.api.common_schema import Identifier
from services.gateway.api.conversation_reference import ConversationReference, conversation_of
from services.gateway.api.envelope import json_response
from services.gateway.api.input_messages import Input, messages_of
from services.gateway.api.item_references import resolve
from services.gateway.api.parts import Parts
from services.gateway.api.schema import TextConfig
from services.gateway.api.tracing import server_span
from services.gateway.api.validation import Neutral, Strict, all_null, is_nothing, parse
from services.gateway.auth import Caller
from services.gateway.errors import bad_request
from services.gateway.ingress import fit
from shared.ids import response_id_text
from shared.records import ResponseSpec

_ENDLESS = 1 << 62
"""As a window: a prompt that is too long is counted too, as its client wants to know by how much."""


class CountInputTokens(Strict):
    """The part of a request that its prompt is made of. Without a `model` the server's own counts."""

    model: str | None = None
    input: Input | None = None
    instructions: str | None = None
    previous_response_id: Identifier | None = None
    conversation: ConversationReference | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None

    def spec(self, model: str) -> ResponseSpec:
        """The request whose prompt is counted."""
        parent = self.previous_response_id
        return ResponseSpec(
            model=model,
            input=messages_of(self.input),
            instructions=self.instructions,
            previous_response_id=None if parent is None else response_id_text(parent),
            conversation=self.named_conversation(),
            truncation=self.truncation or "disabled",
        )

    def named_conversation(self) -> str | None:
        """The conversation's id, if there is one. Raises ApiError 400, 404."""
        return conversation_of(self.conversation, self.previous_response_id)


async def count_input_tokens(request: Request, send: Send) -> None:
    """The same number that a response to the same request has as its `usage.input_tokens`."""
    parts: Parts = request.app.state.parts
    with server_span(request, "POST", "/v1/responses/input_tokens"):
        caller = parts.authenticator.caller(request)
        command = parse_count(parse_object(await read_body(request, parts.settings.body_limit_bytes)))
        given = await resolve(parts, caller, command.input, command.named_conversation())
        command = command.model_copy(update={"input": given})
        spec = command.spec(command.model or parts.tokenizer.model_id)
        tokens = await _count(parts, caller, spec)
        await sse.reply(json_response({"object": "response.input_tokens", "input_tokens": tokens}), request, send)


def parse_count(body: dict[str, Any]) -> CountInputTokens:
    """The request in `body`. Raises ApiError 400 that names the first field that is wrong, 404 as for a request."""
    command = parse(CountInputTokens, body, _NEUTRAL)
    stored = command.previous_response_id is not None or command.named_conversation() is not None
    if command.input is None and command.instructions is None and not stored:
        message = "Missing required parameter: 'input'."
        raise bad_request(message, code="missing_required_parameter", param="input")
    return command


async def _count(parts: Parts, caller: Caller, spec: ResponseSpec) -> int:
    """With stored context history counts, as it does for a request. Raises ApiError."""
    window = parts.ingress.window(spec.model)
    if spec.previous_response_id is not None or spec.conversation is not None:
        return await parts.history.count_input(caller.tenant, spec)
    limit = window if spec.truncation == "auto" else _ENDLESS
    return (await asyncio.to_thread(fit, parts.tokenizer, spec, limit)).tokens


_NEUTRAL: Neutral = {
    "personality": is_nothing,
    "reasoning": all_null,
    "tools": is_nothing,
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""
