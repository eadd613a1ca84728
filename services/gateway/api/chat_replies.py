"""What `/v1/chat/completions` replies, as the published document describes it (see `replies`)."""

from typing import Any, Literal

from pydantic import Field

from services.gateway.api.replies import ModerationError, ModerationResult, Reply, TokenLogprob


class ChatAnswer(Reply):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Any] = Field(max_length=0)


class ChatLogprobs(Reply):
    """Of the answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class ChatChoice(Reply):
    """One of the answers that were asked for."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class PromptTokensDetails(Reply):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(Reply):
    """Of the answers' tokens."""

    reasoning_tokens: int


class ChatUsage(Reply):
    """Tokens counted: the prompt once, the answers of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ModerationResults(Reply):
    """What moderation makes of the prompt, or of each choice."""

    type: Literal["moderation_results"]
    model: str = Field(description="the policy that decided")
    results: list[ModerationResult] = Field(min_length=1)


class ChatModeration(Reply):
    """Of a request that asked for it."""

    input: ModerationResults | ModerationError
    output: ModerationResults | ModerationError


class ChatCompletion(Reply):
    """The completion. Its id without `chatcmpl-` is that of its first choice's response without `resp_`."""

    id: str = Field(pattern="^chatcmpl-[0-9a-f]{32}$")
    object: Literal["chat.completion"]
    created: int = Field(description="seconds since 1970")
    model: str
    service_tier: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: ChatUsage
    moderation: ChatModeration | None = Field(default=None, description="only if asked for")
