"""The shape that all records share, and the few value types they are made of.

Records are msgspec structs, tagged by `type`, JSON on the wire. Fields may be added with a default (release N
reads N-1 and N); fields are never renamed or retyped. Unknown fields are ignored by readers. Records hold
no cycles: the collector passes them by (`gc=False`).
"""

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

Role = Literal["system", "developer", "user", "assistant"]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, gc=False):
    """Base of every record. `subject` is the Kafka key and the CloudEvents subject; `uid` is unique per source."""

    @property
    def subject(self) -> str:
        raise NotImplementedError

    @property
    def uid(self) -> str:
        raise NotImplementedError


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of the untagged values inside records."""


class Message(Value, frozen=True, kw_only=True):
    """One turn of a prompt: a role and its text, in the parts in which the client sent it."""

    role: Role
    parts: list[str]
    id: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Item(Value, frozen=True, kw_only=True):
    """What stands in a conversation: a message by the name `id`.

    `status` is "incomplete" for an answer that was cut, cancelled or ran into its limit. `response_id`: the response
    that brought it, if one did.
    """

    id: str
    role: Role
    parts: list[str]
    status: Literal["completed", "incomplete"] = "completed"
    response_id: str | None = None

    @property
    def message(self) -> Message:
        """As a prompt has it."""
        return Message(role=self.role, parts=self.parts, id=self.id)


class Sampling(Value, frozen=True, kw_only=True):
    """How to draw tokens, and where to stop.

    `temperature` 0 is greedy; `max_output_tokens` None means "up to the window". `stop`: the answer ends before the
    first of these strings. The penalties are subtracted from the logits of tokens that were said: once, and per
    time. `logprobs`: report each token's log probability, with those of so many likeliest tokens beside it; None: do
    not.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    stop: list[str] = []
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None


class TokenCandidate(Value, frozen=True, kw_only=True):
    """A token that could be said, and the natural logarithm of its probability before temperature and truncation.

    `token` is its text, with U+FFFD for what is no whole character; `bytes` are its own, None if it has none.
    """

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TokenCandidate, frozen=True, kw_only=True):
    """A token that was said. `end`: how many code points the raw text has once its last character is whole; the
    likeliest tokens at its place are in `top`, the likeliest first."""

    end: int
    top: list[TokenCandidate] = []


MODERATION_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The categories of OpenAI's Moderations API. A policy may have others beside them; clients are not told of those."""

ModerationMode = Literal["score", "block"]
CategorySource = Literal["model", "rules", "none"]


class ModerationWish(Value, frozen=True, kw_only=True):
    """What a request asks of moderation beyond the operator's policy, which holds in any case.

    `model` is echoed. "score": the results are told. "block": what would be flagged is refused (input) or cut (output).
    """

    model: str
    input: ModerationMode = "score"
    output: ModerationMode = "score"


class ModerationResult(Value, frozen=True, kw_only=True):
    """What moderation makes of a text, in OpenAI's 13 categories.

    `scores`: category → [0, 1]; `flagged`: the categories whose score reaches the policy's flag threshold. `sources`:
    what a category's score comes from; "none": nothing here looks for it, its score is 0. `failed`: the backends whose
    answer is missing. `policy` names the decision.
    """

    policy: str
    scores: dict[str, float]
    flagged: list[str] = []
    sources: dict[str, CategorySource] = {}
    failed: list[str] = []


class BackendReport(Value, frozen=True, kw_only=True):
    """How one backend took part in a verdict. `latency_ms`: from the question to its answer, or to giving up."""

    name: str
    revision: str
    status: Literal["ok", "failed", "late"] = "ok"
    latency_ms: float = 0.0


class ResponseSpec(Value, frozen=True, kw_only=True):
    """What the client asked for, normalised: the source of every echoed key of the Response object.

    `generate` false: nothing is said; the response is there for others to go on from.
    """

    model: str
    input: list[Message]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    store: bool = True
    background: bool = False
    truncation: Literal["auto", "disabled"] = "disabled"
    service_tier: str = "default"
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    generate: bool = True
    top_logprobs: int = 0
    verbosity: str | None = None
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    prompt_cache_retention: str | None = None
    moderation: ModerationWish | None = None


class Usage(Value, frozen=True, kw_only=True):
    """Token counts of a response; `cached_tokens` is the part of `input_tokens` found in a prefix cache."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class ReplyAddress(Value, frozen=True, kw_only=True):
    """Where a reply goes: the asking gateway's id (the key) and its partition of `gateway.replies`."""

    gateway: str
    partition: int
