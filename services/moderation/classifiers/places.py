"""Matches in a window's normal form, as places in the raw text."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property

from services.moderation.normaliser import REACH, Normalised, normalise
from services.moderation.windows import Finding, Window


class Places:
    """The normal form `text` of a window, with the code point before it that `\\b` sees.

    A window that begins in the middle of a text may normalise otherwise near its start: "skill", spaced out, is no
    "kill". So what was over within the window before, `seen` code points behind this one's start, counts for nothing
    there: that one saw it whole, with more before it.
    """

    def __init__(self, window: Window, seen: int) -> None:
        self._begin = max(0, window.start - 1, window.base)
        self._window = window
        self._unsure = window.start + REACH if window.start else 0
        self._seen = window.start + seen
        self._normal: Normalised = normalise(window.text[self._begin - window.base : window.end - window.base])

    @property
    def text(self) -> str:
        """The normal form, the code point before the window included."""
        return self._normal.text

    @cached_property
    def _first(self) -> int:
        """Where in `text` the window begins."""
        return bisect_left(self._normal.starts, self._window.start - self._begin)

    def findings(self, category: str, regex: re.Pattern[str]) -> Iterator[Finding]:
        """All matches in the window's normal form."""
        if regex.search(self.text) is None:
            return  # nearly always, and then nobody asks what comes from where
        for match in regex.finditer(self.text, self._first):
            start, end = (place + self._begin for place in self._normal.span(match.start(), match.end()))
            if not (start < self._unsure and end < self._seen):
                yield Finding(category, start, end, open=match.end() == len(self.text) and not self._window.final)
