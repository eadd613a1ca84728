"""What a guard model's answer means. Pure.

Such a model says a verdict in words ("safe", "unsafe\\nS1", "Yes"). Its score is how likely it found the verdict: the
probability, at the token that decides, of all continuations but the harmless one.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_CODE = re.compile(r"[A-Za-z0-9]+")


class UnreadableAnswerError(ValueError):
    """The answer is neither harmless nor of any label. The message does not repeat it: it may hold the text."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the answer. `likely`: the likeliest ids at its place with their probabilities, itself among them;
    empty if the engine does not tell."""

    id: int
    likely: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Category → how likely the text is of it, of those that the answer names; `unsafe`: whether it calls it so."""

    scores: Mapping[str, float]
    unsafe: bool


class AnswerReader:
    """Reads answers by a policy's `safe` and `labels`.

    A label is a regular expression that is looked for in the answer; a mere code ("S1") must stand there as a word, so
    that S1 is not found in S10. Of a harmless answer the other verdicts are read that it might have been: a label that
    is found in a bare verdict ("unsafe", "Yes") has a score, however the verdict fell.
    """

    def __init__(self, safe: str, labels: Mapping[str, str], decode: Callable[[Sequence[int]], str]) -> None:
        """`decode`: ids → text, as the model said it."""
        self._safe = re.compile(safe)
        self._labels = [(_pattern(label), category) for label, category in labels.items()]
        self._decode = decode

    def read(self, tokens: Sequence[Token]) -> Reading:
        """Raises UnreadableAnswerError."""
        ids = [token.id for token in tokens]
        answer = self._decode(ids)
        unsafe = not self._is_safe(answer)
        deciding = next((n for n, token in enumerate(tokens) if self._decides(ids[:n], token)), None)
        probability, others = (float(unsafe), []) if deciding is None else self._weigh(ids[:deciding], tokens[deciding])
        categories = self._named([answer] if unsafe else others)
        if unsafe and not categories:
            raise UnreadableAnswerError("the answer is neither found `safe`, nor is any of `labels` found in it")
        return Reading(dict.fromkeys(categories, probability), unsafe)

    def _named(self, answers: Sequence[str]) -> list[str]:
        """The categories whose labels are found in any of the answers."""
        return [category for label, category in self._labels if any(map(label.search, answers))]

    def _is_safe(self, text: str) -> bool:
        return self._safe.search(text) is not None

    def _decides(self, before: Sequence[int], token: Token) -> bool:
        """Whether the answer may become harmless with this token, and was not before."""
        if not token.likely or self._is_safe(self._decode(before)):
            return False
        return any(self._is_safe(self._decode([*before, other])) for other, _ in token.likely)

    def _weigh(self, before: Sequence[int], token: Token) -> tuple[float, list[str]]:
        """How likely the answer is not harmless, and what it would begin with then. Raises UnreadableAnswerError."""
        texts = [(self._decode([*before, other]), probability) for other, probability in token.likely]
        harmless = math.fsum(probability for text, probability in texts if self._is_safe(text))
        if not math.isfinite(harmless):
            raise UnreadableAnswerError("the probabilities of its verdict are no numbers")
        return min(1.0, max(0.0, 1.0 - harmless)), [text for text, _ in texts if not self._is_safe(text)]


def _pattern(label: str) -> re.Pattern[str]:
    return re.compile(rf"\b{label}\b" if _CODE.fullmatch(label) else label)
