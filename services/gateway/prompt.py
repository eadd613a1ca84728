"""Whether a request fits the model's window, and how many tokens are left for the answer."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.gateway.api.errors import bad_request
from shared.chat import ChatTemplateError
from shared.records import Message, ResponseSpec


class TokenCounter(Protocol):
    """What of `shared.chat.ChatTokenizer` a gateway needs."""

    def count(self, messages: Sequence[dict[str, str]], /) -> int: ...


def fit(counter: TokenCounter, spec: ResponseSpec, window: int) -> tuple[ResponseSpec, int]:
    """The spec as it will run, and its prompt's tokens without stored context (which history adds and counts).

    A `max_output_tokens` beyond the window's remainder is silently lowered to it. With `truncation: auto` the oldest
    items are dropped until the prompt fits. Raises ApiError 400 `context_length_exceeded`.
    """
    tokens = _count(counter, spec)
    if tokens >= window and spec.truncation == "auto":
        spec, tokens = _truncated(counter, spec, window)
    if tokens >= window:
        verb = "exceeds" if tokens > window else "leaves no room for an answer in"
        message = f"Your prompt of {tokens:,} tokens {verb} the model's window of {window:,}."
        raise bad_request(message, code="context_length_exceeded", param="input")
    return _capped(spec, window - tokens), tokens


def _capped(spec: ResponseSpec, remainder: int) -> ResponseSpec:
    wanted = spec.sampling.max_output_tokens
    if wanted is None or wanted <= remainder:
        return spec
    sampling = msgspec.structs.replace(spec.sampling, max_output_tokens=remainder)
    return msgspec.structs.replace(spec, sampling=sampling)


def _truncated(counter: TokenCounter, spec: ResponseSpec, window: int) -> tuple[ResponseSpec, int]:
    """Drop as few of the oldest items as it takes, never the last one. Counts log2(items) prompts."""
    low, high = 1, len(spec.input) - 1
    while low < high:
        middle = (low + high) // 2
        if _count(counter, _without_oldest(spec, middle)) < window:
            high = middle
        else:
            low = middle + 1
    shorter = _without_oldest(spec, max(0, high))
    return shorter, _count(counter, shorter)


def _without_oldest(spec: ResponseSpec, dropped: int) -> ResponseSpec:
    return msgspec.structs.replace(spec, input=spec.input[dropped:])


def _count(counter: TokenCounter, spec: ResponseSpec) -> int:
    head = [Message(role="system", parts=[spec.instructions])] if spec.instructions else []
    try:
        return counter.count([{"role": turn.role, "content": turn.text} for turn in [*head, *spec.input]])
    except ChatTemplateError as error:
        raise bad_request(f"Invalid 'input': {error}", param="input") from error
