"""What the worker asks of an engine, whatever runs inside.

An engine owns slots. A submitted request occupies one until its last StepOutput, the only one with a `finish`.
Token ids are the currency: prompts come in as ids, what is generated goes out as ids, and a takeover is the same
prompt with the ids that were said already.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from shared.errors import ChatmeshError, ModelError

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]


class EngineError(ChatmeshError):
    """Base of what an engine refuses."""


class EngineDeadError(EngineError):
    """The engine's loop has died or was never started: `restart`, or leave the request to another worker."""


class EngineFullError(EngineError):
    """Every slot is taken: release the request, never queue it."""


class RequestTooLongError(EngineError, ValueError):
    """Prompt and answer together do not fit the model's window."""


class UnusableRequestError(EngineError, ValueError):
    """A number of the request is out of range; says which, and quotes no text."""


class EngineLoadError(ModelError):
    """The weights cannot be loaded."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to be generated.

    `primed_ids` were said before, by this worker or another: the engine goes on exactly behind them.
    `max_new_tokens` counts from there. `temperature` 0 is greedy, exactly. With `seed`, the token at a position is a
    function of the logits and the seed alone (a takeover draws the same numbers); without, it is drawn afresh.
    The penalties are subtracted from the logits of tokens that the answer holds already (`primed_ids` too, the prompt
    not): `presence_penalty` once, `frequency_penalty` for each time. `logprobs`: tell how likely each token was, and
    the so many likeliest tokens at its place; None: do not. Raises UnusableRequestError for values out of range.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    eos_ids: frozenset[int]
    primed_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "prompt_ids must not be empty": bool(self.prompt_ids),
            f"max_new_tokens must be at least 1, not {self.max_new_tokens}": self.max_new_tokens >= 1,
            f"temperature must not be negative: {self.temperature}": self.temperature >= 0,
            f"top_p must lie in [0, 1], not {self.top_p}": 0 <= self.top_p <= 1,
            f"top_k must be at least 1, not {self.top_k}": self.top_k is None or self.top_k >= 1,
            f"presence_penalty must be finite: {self.presence_penalty}": math.isfinite(self.presence_penalty),
            f"frequency_penalty must be finite: {self.frequency_penalty}": math.isfinite(self.frequency_penalty),
            f"logprobs must lie in [0, 20], not {self.logprobs}": self.logprobs is None or 0 <= self.logprobs <= 20,
        }
        for complaint, holds in checks.items():
            if not holds:
                raise UnusableRequestError(complaint)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the model reads before it says the next token."""
        return self.prompt_ids + self.primed_ids

    def check_fits(self, window: int) -> None:
        """Raises RequestTooLongError if the request would pass `window` tokens."""
        length = len(self.prompt_ids) + len(self.primed_ids) + self.max_new_tokens
        if length > window:
            raise RequestTooLongError(
                f"prompt of {len(self.prompt_ids):,} tokens and answer of "
                f"{len(self.primed_ids) + self.max_new_tokens:,} exceed the window of {window:,} tokens"
            )


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the model found a token where it was said: natural logarithms, finite, before temperature, penalties
    and truncation. `top`: the likeliest ids there with theirs, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step brought for one request.

    `ids` are only the new ones. On "stop" the last of them is the end-of-turn id, whose piece is "".
    `cached_tokens` is how much of the prompt came from the prefix cache. `logprobs` has an entry for each of `ids`
    if the request asked for them, else none.
    """

    request_id: str
    ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None
    cached_tokens: int = 0
    logprobs: tuple[Likelihood, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an engine serves: `context_window` in tokens, `slots` in concurrent sequences."""

    id: str
    revision: str
    context_window: int
    slots: int


OnOutputs: TypeAlias = Callable[[list[StepOutput]], None]
OnProgress: TypeAlias = Callable[[str], None]


class Engine(Protocol):
    """All methods are called on the asyncio loop that ran `start`; `steps` and `alive` from any thread."""

    @property
    def info(self) -> ModelInfo:
        """Known before `start`."""
        ...

    @property
    def steps(self) -> int:
        """A counter that rises with every step and never falls; it stands only when the engine idles or hangs."""
        ...

    @property
    def alive(self) -> bool:
        """Whether `submit` has a loop to hand requests to."""
        ...

    async def start(self, on_outputs: OnOutputs, on_progress: OnProgress) -> None:
        """Load what is needed and return once the engine can answer.

        `on_outputs` runs on this loop, once per step with all outputs of that step, in order. `on_progress` gets
        lines for people. Raises EngineLoadError.
        """
        ...

    async def restart(self) -> None:
        """Revive a dead engine, without loading the weights again."""
        ...

    async def close(self) -> None:
        """End every request that still runs with finish "error" and stop the loop."""
        ...

    def submit(self, request: GenerationRequest) -> None:
        """Give the request a slot.

        Raises EngineDeadError, EngineFullError, RequestTooLongError, and ValueError if its id is in use.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Free the request's slot within a second; its last output then says "cancelled". Unknown ids are ignored:
        the request may just have ended by itself.
        """
        ...
