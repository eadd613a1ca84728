"""What POST /v1/responses and `response.create` accept: strict types, every field named when it is refused."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, Field

from services.gateway.api.common_schema import Creation, StreamOptions
from services.gateway.api.conversation_reference import ConversationReference, conversation_of
from services.gateway.api.input_messages import Input, holds_text, messages_of
from services.gateway.api.validation import (
    NO_REASONING,
    NO_TOOLS,
    PLAIN_TEXT,
    TEXT_ONLY,
    Neutral,
    Strict,
    all_null,
    is_nothing,
    one_of,
    parse,
    served_only,
)
from services.gateway.errors import bad_request
from shared.records import ResponseSpec

LOGPROBS = "message.output_text.logprobs"
"""The one value of `include` that is served."""

_format = served_only(("text",), {"json_object": PLAIN_TEXT, "json_schema": PLAIN_TEXT, "grammar": PLAIN_TEXT})
_includable = served_only(
    (LOGPROBS,),
    {
        "code_interpreter_call.outputs": NO_TOOLS,
        "computer_call_output.output.image_url": NO_TOOLS,
        "file_search_call.results": NO_TOOLS,
        "message.input_image.image_url": TEXT_ONLY,
        "reasoning.encrypted_content": NO_REASONING,
        "web_search_call.action.sources": NO_TOOLS,
        "web_search_call.results": NO_TOOLS,
    },
)


class TextFormat(Strict):
    """Plain text is the only format."""

    type: Annotated[str, AfterValidator(_format)] = "text"


class TextConfig(Strict):
    """`text`: how the answer looks. `verbosity` is echoed; the models here know of none."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


Includable = Annotated[str, AfterValidator(_includable)]


class CreateResponse(Creation):
    """A request for a response, as far as its form goes. Fields are named as in OpenAI's reference; `stop`, `seed`
    and `top_k` are extensions, named as in its Chat Completions and in what other servers take."""

    input: Input
    instructions: str | None = None
    conversation: ConversationReference | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    include: list[Includable] | None = Field(None, max_length=16)
    background: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    tool_choice: Literal["auto", "none"] | None = None
    max_tool_calls: int | None = Field(None, ge=0)

    @property
    def speaks(self) -> bool:
        """Whether it asks for an answer; only then must there be something to answer to."""
        return True

    def spec(self) -> ResponseSpec:
        """The normalised request."""
        sampling = self._sampling(max_output_tokens=self.max_output_tokens, logprobs=self._wants_logprobs)
        return msgspec.structs.replace(
            self._common_spec(messages_of(self.input), sampling, store=self.store is not False),
            instructions=self.instructions,
            conversation=self.named_conversation(),
            background=self.background is True,
            truncation=self.truncation or "disabled",
            verbosity=self.text.verbosity if self.text is not None else None,
            tool_choice=self.tool_choice or "auto",
            max_tool_calls=self.max_tool_calls,
        )

    def named_conversation(self) -> str | None:
        """The conversation's id, if there is one. Raises ApiError 400, 404."""
        return conversation_of(self.conversation, self.previous_response_id)

    @property
    def _wants_logprobs(self) -> bool:
        """Who asks for the likeliest tokens asks for log probabilities, with or without saying so in `include`."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


class CreateOverSocket(CreateResponse):
    """`response.create` without its envelope. `generate` false: screen and keep the input, say nothing."""

    generate: bool | None = None

    @property
    def speaks(self) -> bool:
        """See `CreateResponse.speaks`."""
        return self.generate is not False

    def spec(self) -> ResponseSpec:
        """See `CreateResponse.spec`."""
        return msgspec.structs.replace(super().spec(), generate=self.speaks)


def parse_create(body: dict[str, Any]) -> CreateResponse:
    """The request in the body of POST /v1/responses. Raises ApiError 400 that names the first field that is wrong,
    404 for a conversation that cannot be."""
    return _consistent(parse(CreateResponse, body, {**_NEUTRAL, "generate": one_of(None, True)}))


def parse_event(body: dict[str, Any]) -> CreateOverSocket:
    """The request in a `response.create` without its envelope. Raises as `parse_create`."""
    return _consistent(parse(CreateOverSocket, body, _NEUTRAL))


R = TypeVar("R", bound=CreateResponse)


def _consistent(request: R) -> R:
    """What no single field can tell."""
    if request.speaks and not holds_text(request.input):
        raise bad_request("Invalid 'input': it must hold some text.", code="empty_input", param="input")
    request.named_conversation()
    if request.background and request.store is False:
        raise bad_request("'background' requires 'store' to be true: its result is fetched later.", param="background")
    return request


_NEUTRAL: Neutral = {
    "access_programs": all_null,
    "context_management": is_nothing,
    "image": all_null,
    "prompt": is_nothing,
    "prompt_cache_options": all_null,
    "reasoning": all_null,
    "tools": is_nothing,
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""
