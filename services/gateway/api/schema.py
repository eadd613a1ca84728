"""What POST /v1/responses and `response.create` accept: strict types, every field named when it is refused."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from services.gateway.api.input_messages import Input, messages_of
from services.gateway.api.validation import Neutral, Strict, all_null, is_nothing, one_of, parse, served_only, shape
from services.gateway.errors import bad_request
from shared.ids import response_id_text
from shared.records import ResponseSpec, Sampling

LOGPROBS = "message.output_text.logprobs"
"""The one value of `include` that is served."""

_STRUCTURED = "answers are plain text"
_format = served_only(("text",), {"json_object": _STRUCTURED, "json_schema": _STRUCTURED, "grammar": _STRUCTURED})
_includable = served_only(
    (LOGPROBS,),
    {
        "code_interpreter_call.outputs": "its models call no tools",
        "computer_call_output.output.image_url": "its models call no tools",
        "file_search_call.results": "its models call no tools",
        "message.input_image.image_url": "its models read text only",
        "reasoning.encrypted_content": "its models do not reason apart from their answer",
        "web_search_call.action.sources": "its models call no tools",
        "web_search_call.results": "its models call no tools",
    },
)


class TextFormat(Strict):
    """Plain text is the only format."""

    type: Annotated[str, AfterValidator(_format)] = "text"


class TextConfig(Strict):
    """`text`: how the answer looks. `verbosity` is echoed; the models here know of none."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(Strict):
    """`stream_options`: events are never padded, so that all readers of a response get the same bytes."""

    include_obfuscation: Literal[False] | None = None


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Identifier = Annotated[str, StringConstraints(max_length=256)]
Includable = Annotated[str, AfterValidator(_includable)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TopK = Annotated[int, Field(ge=1, le=2**31 - 1)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopText, Tag("#text")] | Annotated[list[StopText], Field(max_length=4), Tag("#items")],
    Discriminator(shape),
]


class CreateResponse(Strict):
    """A request for a response, as far as its form goes. Fields are named as in OpenAI's reference; `stop`, `seed`
    and `top_k` are extensions, named as in its Chat Completions and in what other servers take."""

    model: str
    input: Input
    instructions: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    top_logprobs: TopLogprobs | None = None
    include: list[Includable] | None = Field(None, max_length=16)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: Identifier | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, ge=0)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    @property
    def speaks(self) -> bool:
        """Whether it asks for an answer; only then must there be something to answer to."""
        return True

    def spec(self) -> ResponseSpec:
        """The normalised request. Its tier is the one that is asked for; the ingress says which one serves it."""
        text, parent = self.text or TextConfig(), self.previous_response_id
        return ResponseSpec(
            model=self.model,
            input=messages_of(self.input),
            instructions=self.instructions,
            previous_response_id=None if parent is None else response_id_text(parent),
            sampling=self._sampling(),
            metadata=dict(self.metadata or {}),
            store=self.store is not False,
            background=self.background is True,
            truncation=self.truncation or "disabled",
            service_tier=self.service_tier or "auto",
            prompt_cache_key=self.prompt_cache_key,
            prompt_cache_retention=self.prompt_cache_retention,
            safety_identifier=self.safety_identifier,
            user=self.user,
            top_logprobs=self.top_logprobs or 0,
            verbosity=text.verbosity,
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
            max_tool_calls=self.max_tool_calls,
        )

    def _sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else float(self.temperature),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            top_k=self.top_k,
            seed=self.seed,
            max_output_tokens=self.max_output_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else list(self.stop or ()),
            presence_penalty=float(self.presence_penalty or 0),
            frequency_penalty=float(self.frequency_penalty or 0),
            logprobs=self._logprobs(),
        )

    def _logprobs(self) -> int | None:
        """Who asks for the likeliest tokens asks for log probabilities, with or without saying so in `include`."""
        wanted = self.top_logprobs or 0
        return wanted if wanted or LOGPROBS in (self.include or ()) else None


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
    """The request in the body of POST /v1/responses. Raises ApiError 400 that names the first field that is wrong."""
    return _consistent(parse(CreateResponse, body, {**_NEUTRAL, "generate": one_of(None, True)}))


def parse_event(body: dict[str, Any]) -> CreateOverSocket:
    """The request in a `response.create` without its envelope. Raises as `parse_create`."""
    return _consistent(parse(CreateOverSocket, body, _NEUTRAL))


R = TypeVar("R", bound=CreateResponse)


def _consistent(request: R) -> R:
    """What no single field can tell."""
    if request.speaks and not any(message.text.strip() for message in messages_of(request.input)):
        raise bad_request("Invalid 'input': it must hold some text.", code="empty_input", param="input")
    if request.background and request.store is False:
        raise bad_request("'background' requires 'store' to be true: its result is fetched later.", param="background")
    return request


_NEUTRAL: Neutral = {
    "access_programs": all_null,
    "context_management": is_nothing,
    "conversation": is_nothing,
    "image": all_null,
    "moderation": all_null,
    "prompt": is_nothing,
    "prompt_cache_options": all_null,
    "reasoning": all_null,
    "tools": is_nothing,
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""
