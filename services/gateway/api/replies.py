"""What the endpoints reply, as the published document describes it. Nothing is validated with these at run time: the
projections write the replies, and tests hold them to these models."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypeAliasType

from shared.records import MODERATION_CATEGORIES, CategorySource


class Reply(BaseModel):
    """Exactly these keys, all of them."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorBody(Reply):
    """What went wrong, for people (`message`) and for programs."""

    message: str = Field(min_length=1)
    type: str
    param: str | None = Field(description="the request's field that is wrong, as a path: `input[0].role`")
    code: str | None


class ErrorEnvelope(Reply):
    """Every 4xx and 5xx has this body."""

    error: ErrorBody


class TokenCandidate(Reply):
    """One of the likeliest tokens at a place."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TokenCandidate):
    """A token of the answer, and its rivals."""

    top_logprobs: list[TokenCandidate]


class OutputText(Reply):
    """A part of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[TokenLogprob]


class OutputMessage(Reply):
    """What the model said."""

    id: str = Field(pattern="^msg_")
    type: Literal["message"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class ResponseFailure(Reply):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(Reply):
    """Why a response ended early."""

    reason: Literal["max_output_tokens", "content_filter"]


class Format(Reply):
    """The only format."""

    type: Literal["text"]


class TextReply(Reply):
    """How the answer looks."""

    format: Format
    verbosity: Literal["low", "medium", "high"]


class Reasoning(Reply):
    """The models here do not reason apart from their answer."""

    effort: None
    summary: None


class ConversationReference(Reply):
    """The conversation that a response belongs to."""

    id: str


class InputTokensDetails(Reply):
    """Of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Reply):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(Reply):
    """Tokens counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


V = TypeVar("V")
ModerationCategory = TypeAliasType("ModerationCategory", Literal[MODERATION_CATEGORIES])  # type: ignore[valid-type]
PerCategory = Annotated[dict[ModerationCategory, V], Field(min_length=len(MODERATION_CATEGORIES))]
"""All 13 keys."""


class Judged(Reply):
    """What moderation makes of a text."""

    flagged: bool
    categories: PerCategory[bool]
    category_scores: PerCategory[float]
    category_applied_input_types: PerCategory[list[Literal["text"]]]
    category_sources: PerCategory[CategorySource] = Field(
        description="an extension of this server: what the score comes from; `none`: nothing here looks for it"
    )


class ModerationResult(Judged):
    """What moderation makes of a request's input, or of an answer."""

    type: Literal["moderation_result"]
    model: str = Field(description="the policy that decided")


class ModerationError(Reply):
    """There is no result."""

    type: Literal["error"]
    code: str
    message: str


class ResponseModeration(Reply):
    """Of a request that asked for it."""

    input: ModerationResult | ModerationError
    output: ModerationResult | ModerationError


class Moderations(Reply):
    """One result per text."""

    id: str = Field(pattern="^modr_[0-9a-f]{32}$")
    model: str = Field(description="the policy that decided")
    results: list[Judged] = Field(min_length=1)


class Response(Reply):
    """The Response object. Every key is always there, but `stop`, `seed` and `top_k` only if asked for."""

    id: str = Field(pattern="^resp_[0-9a-f]{32}$")
    object: Literal["response"]
    created_at: int = Field(description="seconds since 1970")
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[OutputMessage] = Field(max_length=1)
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    metadata: dict[str, str]
    previous_response_id: str | None
    conversation: ConversationReference | None
    parallel_tool_calls: bool
    tools: list[Any] = Field(max_length=0)
    tool_choice: str
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_output_tokens: int | None
    max_tool_calls: int | None
    text: TextReply
    truncation: Literal["auto", "disabled"]
    reasoning: Reasoning
    store: bool
    background: bool
    service_tier: str
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    user: str | None
    usage: ResponseUsage | None = Field(description="null until the response has ended")
    stop: list[str] = Field(default=[], description="an extension of this server")
    seed: int | None = Field(default=None, description="an extension of this server")
    top_k: int | None = Field(default=None, description="an extension of this server")
    access_programs: None
    image: None
    input_transformations: None
    moderation: ResponseModeration | None = Field(description="null unless asked for, and until the response has ended")
    prompt: None
    prompt_cache_diagnostics: None
    prompt_cache_options: None
    tool_usage: None


class DeletedResponse(Reply):
    """The response is no more."""

    id: str = Field(pattern="^resp_[0-9a-f]{32}$")
    object: Literal["response"]
    deleted: Literal[True]


class InputText(Reply):
    """A part of what a client said."""

    type: Literal["input_text"]
    text: str


class InputItem(Reply):
    """A message of a request."""

    id: str = Field(min_length=1)
    type: Literal["message"]
    status: Literal["completed"]
    role: Literal["user", "system", "developer"]
    content: list[InputText]


class SentBack(OutputMessage):
    """What an assistant said, in a request; with the id that the client gave it."""

    id: str = Field(min_length=1)


class InputItemList(Reply):
    """A page of them; the ids are null where it is empty."""

    object: Literal["list"]
    data: list[InputItem | SentBack]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Conversation(Reply):
    """What is kept of a conversation beside its items."""

    id: str = Field(pattern="^conv_[0-9a-f]{32}$")
    object: Literal["conversation"]
    created_at: int = Field(description="seconds since 1970")
    metadata: dict[str, str]


class DeletedConversation(Reply):
    """The conversation is no more."""

    id: str = Field(pattern="^conv_[0-9a-f]{32}$")
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class SaidByAssistant(OutputMessage):
    """An answer in a conversation."""

    status: Literal["completed", "incomplete"]


class ConversationItem(RootModel[InputItem | SaidByAssistant]):
    """A message of a conversation."""


class ConversationItemList(Reply):
    """Messages of a conversation; the ids are null where there are none."""

    object: Literal["list"]
    data: list[InputItem | SaidByAssistant]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(Reply):
    """The length of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Model(Reply):
    """A model that a living worker serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_window: int


class ModelList(Reply):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Alive(Reply):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Reply):
    """Whether the mesh could answer a request, and what is missing, in words."""

    status: Literal["ready", "waiting"]
    missing: list[str]


class Document(BaseModel):
    """The OpenAPI document itself."""

    openapi: Literal["3.1.0"]
