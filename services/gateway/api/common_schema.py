"""What both dialects ask for in the same words: the fields of Responses that Chat Completions have too."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from services.gateway.api.moderation_schema import Moderation
from services.gateway.api.validation import Strict, shape
from shared.ids import response_id_text
from shared.records import Message, ResponseSpec, Sampling

Identifier = Annotated[str, StringConstraints(max_length=256)]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopText, Tag("#text")] | Annotated[list[StopText], Field(max_length=4), Tag("#items")],
    Discriminator(shape),
]


class StreamOptions(Strict):
    """`stream_options`: events are never padded, so that all readers of a response get the same bytes."""

    include_obfuscation: Literal[False] | None = None


class Creation(Strict):
    """What to generate with, and what to remember it by."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, le=2**31 - 1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    previous_response_id: Identifier | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    moderation: Moderation | None = None

    def _common_spec(self, messages: list[Message], sampling: Sampling, *, store: bool) -> ResponseSpec:
        """The normalised request, as far as these fields tell it. `service_tier` is the one that is asked for; the
        ingress says which one serves it."""
        parent = self.previous_response_id
        return ResponseSpec(
            model=self.model,
            input=messages,
            previous_response_id=None if parent is None else response_id_text(parent),
            sampling=sampling,
            metadata=dict(self.metadata or {}),
            store=store,
            service_tier=self.service_tier or "auto",
            prompt_cache_key=self.prompt_cache_key,
            prompt_cache_retention=self.prompt_cache_retention,
            safety_identifier=self.safety_identifier,
            user=self.user,
            top_logprobs=self.top_logprobs or 0,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            moderation=None if self.moderation is None else self.moderation.wish(),
        )

    def _sampling(self, *, max_output_tokens: int | None, logprobs: bool) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else float(self.temperature),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            top_k=self.top_k,
            seed=self.seed,
            max_output_tokens=max_output_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else list(self.stop or ()),
            presence_penalty=float(self.presence_penalty or 0),
            frequency_penalty=float(self.frequency_penalty or 0),
            logprobs=(self.top_logprobs or 0) if logprobs else None,
        )
