"""What POST /v1/chat/completions accepts: strict types, every field named when it is refused."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

import msgspec
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from services.gateway.api.common_schema import Creation, StreamOptions
from services.gateway.api.input_messages import RefusalPart, part_shape
from services.gateway.api.validation import (
    NO_TOOLS,
    TEXT_ONLY,
    Neutral,
    Strict,
    is_nothing,
    one_of,
    parse,
    served_only,
    shape,
)
from services.gateway.errors import bad_request
from shared.records import Message, ResponseSpec
from shared.records.base import Role

MAX_CHOICES = 8

_role = served_only(
    ("system", "developer", "user", "assistant"),
    {"tool": NO_TOOLS, "function": NO_TOOLS},
)
_part_type = served_only(
    ("text", "refusal"),
    {"image_url": TEXT_ONLY, "input_audio": TEXT_ONLY, "file": TEXT_ONLY},
)


def _nothing(value: Any) -> None:
    """A field inside a message that is known and not served: null or empty asks for nothing."""
    if not is_nothing(value):
        raise PydanticCustomError("unserved_field", "is not supported")


Nothing = Annotated[None, BeforeValidator(_nothing)]


class ChatTextPart(Strict):
    """Words."""

    type: Annotated[str, AfterValidator(_part_type)]
    text: str
    prompt_cache_breakpoint: Nothing = None

    @property
    def words(self) -> str:
        """What was said."""
        return self.text


Part = Annotated[
    Annotated[ChatTextPart, Tag("#text")] | Annotated[RefusalPart, Tag("#refusal")],
    Discriminator(part_shape),
]
Content = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[Part], Tag("#items")],
    Discriminator(shape),
]


class ChatMessage(Strict):
    """One turn. The fields of nothing come with an answer of ours that is sent back whole."""

    role: Annotated[str, AfterValidator(_role)]
    content: Content
    name: Nothing = None
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    tool_calls: Nothing = None
    function_call: Nothing = None

    def message(self) -> Message:
        """The record's form: the text in the parts in which it came."""
        parts = [self.content] if isinstance(self.content, str) else [part.words for part in self.content]
        return Message(role=cast("Role", self.role), parts=parts)


class ChatStreamOptions(StreamOptions):
    """`stream_options`; with `include_usage` a last chunk tells what the completion cost."""

    include_usage: bool | None = None


class CreateCompletion(Creation):
    """A request for a completion, as far as its form goes. Fields are named as in OpenAI's reference; `top_k` and
    `previous_response_id` are extensions, named as in other servers and in the Responses API."""

    messages: list[ChatMessage]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream_options: ChatStreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def specs(self) -> list[ResponseSpec]:
        """The normalised requests, one for each choice: with a seed, each choice has its own."""
        limit = self.max_completion_tokens or self.max_tokens
        sampling = self._sampling(max_output_tokens=limit, logprobs=self.logprobs is True)
        messages = [message.message() for message in self.messages]
        first = self._common_spec(messages, sampling, store=self.store is True)
        return [first, *(_reseeded(first, sampling.seed, index) for index in range(1, self.n or 1))]


def parse_completion(body: dict[str, Any]) -> CreateCompletion:
    """The request in `body`. Raises ApiError 400 that names the first field that is wrong."""
    return _consistent(parse(CreateCompletion, body, _NEUTRAL))


def _reseeded(spec: ResponseSpec, seed: int | None, index: int) -> ResponseSpec:
    """The spec of a further choice: `seed` + `index`, within 64 bits."""
    if seed is None:
        return spec
    moved = (seed + index + 2**63) % 2**64 - 2**63
    return msgspec.structs.replace(spec, sampling=msgspec.structs.replace(spec.sampling, seed=moved))


def _consistent(request: CreateCompletion) -> CreateCompletion:
    """What no single field can tell."""
    _check_messages(request.messages)
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        message = f"'max_tokens' is {request.max_tokens} and 'max_completion_tokens' {request.max_completion_tokens}."
        raise bad_request(f"{message} Send one of them.", code="mutually_exclusive_parameters", param="max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("'top_logprobs' requires 'logprobs' to be true.", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


def _check_messages(messages: Sequence[ChatMessage]) -> None:
    if not any(message.message().text.strip() for message in messages):
        raise bad_request("Invalid 'messages': they must hold some text.", code="empty_input", param="messages")
    for index, message in enumerate(messages):
        if message.role == "assistant" or isinstance(message.content, str):
            continue
        for place, part in enumerate(message.content):
            if isinstance(part, RefusalPart):
                param = f"messages[{index}].content[{place}].type"
                raise bad_request(f"Invalid value for '{param}': 'refusal' is for the role 'assistant'.", param=param)


_NEUTRAL: Neutral = {
    "audio": one_of(None),
    "function_call": one_of(None, "none", "auto"),
    "functions": is_nothing,
    "logit_bias": is_nothing,
    "modalities": one_of(None, ["text"]),
    "prediction": one_of(None),
    "prompt_cache_options": is_nothing,
    "reasoning_effort": one_of(None, "none"),
    "response_format": one_of(None, {"type": "text"}),
    "tool_choice": one_of(None, "none", "auto"),
    "tools": is_nothing,
    "verbosity": one_of(None, "medium"),
    "web_search_options": one_of(None),
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""
