"""Whether a request fits the model's window, and how many tokens are left for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from services.gateway.errors import bad_request
from shared.chat import ChatTemplateError
from shared.records import Message, ResponseSpec


class TokenCounter(Protocol):
    """What of `shared.chat.ChatTokenizer` a gateway needs."""

    def count(self, messages: Sequence[dict[str, str]], /) -> int: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request as it will run: its spec, the messages before its own, and the tokens of both (`tokens`)."""

    spec: ResponseSpec
    context: Sequence[Message]
    tokens: int


def fit(counter: TokenCounter, spec: ResponseSpec, window: int, context: Sequence[Message] = ()) -> Fitted:
    """The request as it will run, and its prompt's tokens without stored context (which history adds and counts).

    A `max_output_tokens` beyond the window's remainder is silently lowered to it. With `truncation: auto` the oldest
    messages are dropped until the prompt fits. Raises ApiError 400 `context_length_exceeded`.
    """
    whole = _without_oldest(counter, spec, context, 0)
    fitted = _truncated(counter, spec, context, window) if _is_long(whole, window) else whole
    if fitted.tokens >= window:
        verb = "exceeds" if fitted.tokens > window else "leaves no room for an answer in"
        message = f"Your prompt of {fitted.tokens:,} tokens {verb} the model's window of {window:,}."
        raise bad_request(message, code="context_length_exceeded", param="input")
    return Fitted(_capped(fitted.spec, window - fitted.tokens), fitted.context, fitted.tokens)


def _is_long(whole: Fitted, window: int) -> bool:
    return whole.tokens >= window and whole.spec.truncation == "auto"


def _capped(spec: ResponseSpec, remainder: int) -> ResponseSpec:
    wanted = spec.sampling.max_output_tokens
    if wanted is None or wanted <= remainder:
        return spec
    sampling = msgspec.structs.replace(spec.sampling, max_output_tokens=remainder)
    return msgspec.structs.replace(spec, sampling=sampling)


def _truncated(counter: TokenCounter, spec: ResponseSpec, context: Sequence[Message], window: int) -> Fitted:
    """Drop as few of the oldest messages as it takes, never the last one. Counts log2(messages) prompts."""
    low, high = 1, len(context) + len(spec.input) - 1
    while low < high:
        middle = (low + high) // 2
        if _without_oldest(counter, spec, context, middle).tokens < window:
            high = middle
        else:
            low = middle + 1
    return _without_oldest(counter, spec, context, max(0, high))


def _without_oldest(counter: TokenCounter, spec: ResponseSpec, context: Sequence[Message], dropped: int) -> Fitted:
    kept = context[dropped:]
    spec = msgspec.structs.replace(spec, input=spec.input[max(0, dropped - len(context)) :])
    return Fitted(spec, kept, _count(counter, spec, kept))


def _count(counter: TokenCounter, spec: ResponseSpec, context: Sequence[Message]) -> int:
    head = [Message(role="system", parts=[spec.instructions])] if spec.instructions else []
    try:
        return counter.count([{"role": turn.role, "content": turn.text} for turn in [*head, *context, *spec.input]])
    except ChatTemplateError as error:
        raise bad_request(f"Invalid 'input': {error}", param="input") from error
