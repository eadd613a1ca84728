"""What the model is reminded of: the turns before this one. Pure.

Instructions of earlier turns are not carried over, as OpenAI documents it. A turn renders to the same messages for
ever, so the prompt of a turn begins with the prompt of the turn before: workers' prefix caches stay warm. Only where
`truncation` begins to leave turns out, each turn leaves out more than the one before, and its prompt is read anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from services.history.ports import PromptCounter
from shared.records import Item, Message, Requested

Turn = Sequence[Message]


@dataclass(frozen=True, slots=True)
class PromptTooLong:
    """The prompt leaves no room in the window; both in tokens."""

    input_tokens: int
    context_window: int

    def __str__(self) -> str:
        return (
            f"prompt of {self.input_tokens:,} tokens exceeds the model's window of {self.context_window:,} tokens, "
            "of which the answer needs at least one"
        )


def turns_of(items: Sequence[Item]) -> list[Turn]:
    """The turns of a conversation, cut from its items in their order.

    What came with one response stays together; else a turn begins where others speak after the assistant.
    """
    starts = [place for place, pair in enumerate(pairwise(items), start=1) if _parts_turns(*pair)]
    bounds = [0, *starts, len(items)] if items else []
    return [[item.message for item in items[start:end]] for start, end in pairwise(bounds)]


def _parts_turns(before: Item, item: Item) -> bool:
    if item.response_id is not None and item.response_id == before.response_id:
        return False
    return before.role == "assistant" and item.role != "assistant"


def with_context(request: Requested, turns: Sequence[Turn], counter: PromptCounter) -> Requested | PromptTooLong:
    """The request with the messages of `turns` (oldest first) before the context that it has, and its prompt counted.

    With `truncation` "auto" as little as makes it fit is left out, the oldest first: turns whole, then one by one the
    messages of the context that it had. Raises ChatTemplateError.
    """
    said = [*turns, *([one] for one in request.context)]
    whole = _assembled(request, said, counter)
    if _fits(whole, counter):
        return whole
    if request.spec.truncation == "auto":
        shortened = _longest_fitting(request, said, counter)
        if shortened is not None:
            return shortened
    return PromptTooLong(whole.input_tokens, counter.context_window)


def _longest_fitting(request: Requested, said: Sequence[Turn], counter: PromptCounter) -> Requested | None:
    """Bisects how much of `said` to leave out: a prompt never grows by leaving something out."""
    best: Requested | None = None
    low, high = 1, len(said)
    while low <= high:
        middle = (low + high) // 2
        candidate = _assembled(request, said[middle:], counter)
        if _fits(candidate, counter):
            best, high = candidate, middle - 1
        else:
            low = middle + 1
    return best


def _assembled(request: Requested, said: Sequence[Turn], counter: PromptCounter) -> Requested:
    bare = msgspec.structs.replace(request, context=[message for part in said for message in part])
    return msgspec.structs.replace(bare, input_tokens=counter.count(as_chat(bare.prompt())))


def _fits(request: Requested, counter: PromptCounter) -> bool:
    return request.input_tokens < counter.context_window


def as_chat(messages: Sequence[Message]) -> list[Mapping[str, str]]:
    """Messages in the shape that chat templates take."""
    return [{"role": message.role, "content": message.text} for message in messages]
