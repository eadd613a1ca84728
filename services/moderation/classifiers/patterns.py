"""The policy's regular expressions as a classifier.

With a stride of one code point there are several windows per token, nearly all of them harmless, and consecutive
ones overlap almost wholly. So a run of windows over the same text is first asked as a whole whether a pattern could
match in it at all: a pattern's match, in whichever window, consists of text of the run, and contains one of the
pattern's required literals (see `regexes`); where the run has none of them, no window of it can have a match, and
the result is the same as if each had been scanned. Only what is left is scanned, window by window.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import groupby

from services.moderation.policy import Category, CompiledPattern, Policy
from services.moderation.windows import Finding, Stage, Window

_Armed = tuple[str, CompiledPattern]

RUN_SPAN = 16_384
"""Windows whose ends lie in one such stretch of a text (code points) are asked about together."""

WORK_PER_TURN = 65_536
"""Code points scanned between two yields to the event loop: about a millisecond."""


class PatternClassifier:
    """Finds every match of the policy's patterns; categories that are off for a stage are not looked for."""

    def __init__(self, policy: Policy) -> None:
        self._armed: dict[Stage, tuple[_Armed, ...]] = {
            "input": _arm(category for category in policy.categories.values() if category.input != "off"),
            "output": _arm(category for category in policy.categories.values() if category.output != "off"),
        }

    async def classify(self, batch: Sequence[Window]) -> list[list[Finding]]:
        """Findings of every window, in order; score is always 1."""
        results: list[list[Finding]] = []
        work = 0
        for _, run in groupby(batch, key=_run_key):
            windows = list(run)
            suspects = self._suspects(windows)
            for window in windows:
                results.append([finding for suspect in suspects for finding in _scan(suspect, window)])
                work += (window.end - window.start) * (1 + len(suspects))
                if work >= WORK_PER_TURN:
                    work = 0
                    await asyncio.sleep(0)
        return results

    def _suspects(self, windows: Sequence[Window]) -> Sequence[_Armed]:
        """The patterns that may match in one of the windows, which all lie in the same text."""
        armed = self._armed[windows[0].stage]
        base = windows[0].base
        start, end = min(window.start for window in windows), max(window.end for window in windows)
        span = windows[0].text[start - base : end - base]
        if not span.isascii():
            return armed
        lowered = span.lower()
        return [suspect for suspect in armed if suspect[1].may_match(lowered)]


def _arm(categories: Iterable[Category]) -> tuple[_Armed, ...]:
    return tuple((category.name, pattern) for category in categories for pattern in category.patterns)


def _run_key(window: Window) -> tuple[int, Stage, int]:
    # Windows of one `feed` share the very same string; equal texts of different responses need not be told apart.
    return id(window.text), window.stage, window.end // RUN_SPAN


def _scan(armed: _Armed, window: Window) -> list[Finding]:
    """All matches in the window. The text before it is visible to `\\b`, the text behind its end is not."""
    category, pattern = armed
    matches = pattern.regex.finditer(window.text, window.start - window.base, window.end - window.base)
    return [
        Finding(
            category,
            match.start() + window.base,
            match.end() + window.base,
            open=match.end() + window.base == window.end and not window.final,
        )
        for match in matches
    ]
