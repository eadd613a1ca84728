"""Where an answer ends because of what it says: before the first of its stop strings. Pure.

The text is read character by character. The first position at which any stop string is complete ends the answer, and
its text ends where that string begins: where several become complete at once, the longest. How the text was cut into
pieces does not matter. Until it is decided, the longest suffix that could still become a stop string is held back:
nothing of a stop string is ever handed out.
"""

from array import array
from collections.abc import Iterable


class StopMatcher:
    """Text in, the text that may be shown out.

    The search takes constant time per character and stop string (amortised), whatever they are, and four bytes of
    memory per character of a stop string.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Empty strings stop nothing."""
        self._searches = [_Search(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""
        self.stopped = False

    @property
    def held(self) -> str:
        """The end of the text so far that may yet turn out to begin a stop string."""
        return self._held

    def push(self, text: str) -> str:
        """What `text` decides: a continuation of what was handed out before. "" once `stopped`, which it may set."""
        if self.stopped:
            return ""
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = 0
            for search in self._searches:
                if search.advance(character):
                    complete = max(complete, search.length)
            if complete:
                self.stopped = True
                self._held = ""
                return pending[: end - complete]
        decided = len(pending) - max((search.matched for search in self._searches), default=0)
        self._held = pending[decided:]
        return pending[:decided]

    def flush(self) -> str:
        """What is still held back when the answer ends without a stop string: it belongs to the text."""
        held, self._held = self._held, ""
        return held


class _Search:
    """The search for one string: `matched` is how long a prefix of it the text ends with.

    Knuth, Morris, Pratt: Fast pattern matching in strings (1977).
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._borders = _borders(pattern)
        self.matched = 0

    @property
    def length(self) -> int:
        return len(self._pattern)

    def advance(self, character: str) -> bool:
        """Read one character of the text; True if the pattern ends with it. Must not be asked after that."""
        while self.matched and self._pattern[self.matched] != character:
            self.matched = self._borders[self.matched - 1]
        if self._pattern[self.matched] == character:
            self.matched += 1
        return self.matched == len(self._pattern)


def _borders(pattern: str) -> "array[int]":
    """For each prefix: the length of its longest proper suffix that is a prefix too."""
    borders = array("I", [0])
    border = 0
    for character in pattern[1:]:
        while border and pattern[border] != character:
            border = borders[border - 1]
        if pattern[border] == character:
            border += 1
        borders.append(border)
    return borders
