"""An answer's ids on their way to its text: decoded, and ended by the first stop string. Pure."""

from collections.abc import Iterable

from services.inference.stops import StopMatcher
from shared.chat import ChatTokenizer


class AnswerText:
    """The pieces of an answer, one per id: a pure function of the ids so far.

    So whoever takes a generation over and is `primed` with what was said holds back the same text and ends at the
    same token.
    """

    def __init__(self, tokenizer: ChatTokenizer, stops: Iterable[str] = (), primed_ids: Iterable[int] = ()) -> None:
        """Stands behind `primed_ids`, whose pieces others wrote."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decode_stream()
        self._matcher = StopMatcher(stops)
        self._decoded = 0  # code points
        self._undecided: list[int] = []  # ids since the last whole character
        for token_id in primed_ids:
            self.push(token_id)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: what comes after it does not count."""
        return self._matcher.stopped

    @property
    def end(self) -> int:
        """Code points of the raw text up to the last character of the last id, stop strings and all.

        A character that is not whole yet counts.
        """
        return self._decoded + (len(self._tokenizer.decode(self._undecided)) if self._undecided else 0)

    def push(self, token_id: int) -> str:
        """The text that `token_id` decides: "" while a character is incomplete or may begin a stop string."""
        if token_id in self._tokenizer.eos_ids:
            return ""
        text = self._decoder.push(token_id)
        if text:
            self._undecided.clear()
        else:
            self._undecided.append(token_id)
        self._decoded += len(text)
        return self._matcher.push(text)

    def rest(self) -> str:
        """The end of the text of an answer that has ended: what is held back, unless it completes a stop string."""
        if self.stopped:
            return ""
        decided = self._matcher.push(self._decoder.flush())
        return decided + self._matcher.flush()
