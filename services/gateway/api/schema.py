"""What POST /v1/responses and `response.create` accept: strict types, every field named when it is refused."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from services.gateway.api.errors import bad_request
from services.gateway.api.validation import Neutral, Strict, all_null, is_nothing, one_of, parse, shape
from shared.records import Message, ResponseSpec, Sampling
from shared.records.base import Role


class TextPart(Strict):
    """A part of a message. Annotations and logprobs come when a client sends our own output back: ignored."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] | None = None


Content = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[TextPart], Tag("#items")],
    Discriminator(shape),
]


class InputMessage(Strict):
    """One item of `input`. `id`, `status` and `phase` come with output that is sent back."""

    type: Literal["message"] = "message"
    role: Role
    content: Content
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: str | None = None

    def message(self) -> Message:
        """The record's form: the text in the parts in which it came."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return Message(role=self.role, parts=parts, id=self.id)


class TextFormat(Strict):
    """Plain text is the only format."""

    type: Literal["text"] = "text"


class TextConfig(Strict):
    """`text`: how the answer looks."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(Strict):
    """`stream_options`: accepted; obfuscation is never added."""

    include_obfuscation: bool | None = None


Input = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[InputMessage], Tag("#items")],
    Discriminator(shape),
]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Identifier = Annotated[str, StringConstraints(max_length=256)]


class CreateResponse(Strict):
    """A request for a response, as far as its form goes. Fields are named as in OpenAI's reference."""

    model: str
    input: Input
    instructions: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: Identifier | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None

    def spec(self) -> ResponseSpec:
        """The normalised request. The tier is the one that serves it: there is one, `default`."""
        return ResponseSpec(
            model=self.model,
            input=self._messages(),
            instructions=self.instructions,
            previous_response_id=self.previous_response_id,
            sampling=Sampling(
                temperature=1.0 if self.temperature is None else float(self.temperature),
                top_p=1.0 if self.top_p is None else float(self.top_p),
                max_output_tokens=self.max_output_tokens,
            ),
            metadata=dict(self.metadata or {}),
            store=self.store is not False,
            background=self.background is True,
            truncation=self.truncation or "disabled",
            prompt_cache_key=self.prompt_cache_key,
            safety_identifier=self.safety_identifier,
            user=self.user,
        )

    def _messages(self) -> list[Message]:
        if isinstance(self.input, str):
            return [Message(role="user", parts=[self.input])]
        return [item.message() for item in self.input]


def parse_create(body: dict[str, Any]) -> CreateResponse:
    """The request in `body`. Raises ApiError 400 that names the first field that is wrong."""
    return _consistent(parse(CreateResponse, body, _NEUTRAL))


def _consistent(request: CreateResponse) -> CreateResponse:
    """What no single field can tell."""
    if not any(message.text.strip() for message in request._messages()):
        raise bad_request("Invalid 'input': it must hold some text.", code="empty_input", param="input")
    if request.background and request.store is False:
        raise bad_request("'background' requires 'store' to be true: its result is fetched later.", param="background")
    return request


_NEUTRAL: Neutral = {
    "access_programs": is_nothing,
    "context_management": is_nothing,
    "conversation": is_nothing,
    "generate": one_of(None, True),
    "image": is_nothing,
    "include": is_nothing,
    "max_tool_calls": lambda value: value is None or type(value) is int,
    "moderation": is_nothing,
    "parallel_tool_calls": one_of(None, True, False),
    "prompt": is_nothing,
    "prompt_cache_options": is_nothing,
    "prompt_cache_retention": is_nothing,
    "reasoning": all_null,
    "tool_choice": one_of(None, "auto", "none"),
    "tools": is_nothing,
    "top_logprobs": one_of(None, 0),
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""
