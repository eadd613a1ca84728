"""The policy's regular expressions as a classifier.

A pattern is looked for in the raw text, as it always was, and in the text's normal form (see `normaliser`), so that
normalising only ever finds more; one that is `raw` is spared the normal form. Findings are places in the raw text. What
is held back is held back there: of an evasion that is stretched beyond `hold_back`, the beginning is public before it
is found, as of a match that is longer.

With a stride of a few code points there is about one window per token, nearly all of them harmless, and consecutive
ones overlap almost wholly. So a run of windows over the same text is first asked as a whole whether a pattern could
match in it at all: a pattern's match, in whichever window, consists of text of the run, and contains one of the
pattern's required literals (see `regexes`), also when both are folded and their gaps are closed; where the run has none
of them, no window of it can have a match, and the result is the same as if each had been scanned. Only what is left is
scanned, window by window. Where the normaliser does more to the run, each window's normal form is asked for itself.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec

from services.moderation.classifiers.places import Places
from services.moderation.normaliser import PLAIN_PART, fold, is_plain
from services.moderation.policy import Category, CompiledPattern, Policy
from services.moderation.windows import Finding, Stage, Window

RUN_SPAN = 1_024
"""Windows whose ends lie in one such stretch of a text (code points) are asked about together."""

WORK_PER_TURN = 65_536
"""Code points scanned between two yields to the event loop: about a millisecond."""

NORMALISING = 8
"""What normalising a code point costs, in code points scanned."""


class _Armed(msgspec.Struct, frozen=True):
    """A pattern that is looked for. `required`: of each set, every match holds a literal once both are `_dense`."""

    category: str
    pattern: CompiledPattern
    required: tuple[tuple[str, ...], ...]

    def may_match(self, dense: str) -> bool:
        """False only if no text of which `dense` is the dense form, nor any part of it, has a match."""
        for literals in self.required:
            for literal in literals:
                if literal in dense:
                    break
            else:
                return False
        return True


class _Arsenal:
    """The patterns that are looked for in one stage."""

    def __init__(self, categories: Iterable[Category]) -> None:
        self._armed = [_arm(category.name, pattern) for category in categories for pattern in category.patterns]

    def suspects(self, folded: str) -> list[_Armed]:
        """Those that may match in a part of the text whose fold, or normal form, this is."""
        dense = _dense(folded)
        return [armed for armed in self._armed if armed.may_match(dense)]


class PatternClassifier:
    """Finds every match of the policy's patterns; categories that are off for a stage are not looked for."""

    def __init__(self, policy: Policy) -> None:
        # A window's predecessor ends so far behind the window's own start, at least.
        self._seen = policy.streaming.lookback - policy.streaming.stride
        self._asks_runs = policy.streaming.lookback >= PLAIN_PART
        self._arsenals: dict[Stage, _Arsenal] = {
            "input": _Arsenal(category for category in policy.categories.values() if category.input != "off"),
            "output": _Arsenal(category for category in policy.categories.values() if category.output != "off"),
        }

    async def classify(self, batch: Sequence[Window]) -> list[list[Finding]]:
        """Findings of every window, in order; score is always 1."""
        results: list[list[Finding]] = []
        work = 0
        for _, run in groupby(batch, key=_run_key):
            windows = list(run)
            folded = fold(_span(windows))
            plain = self._asks_runs and is_plain(folded)
            suspects = self._arsenals[windows[0].stage].suspects(folded)
            for window in windows:
                results.append(self._find(window, suspects, plain) if suspects or not plain else [])
                work += (window.end - window.start) * (1 + len(suspects) + (0 if plain else NORMALISING))
                if work >= WORK_PER_TURN:
                    work = 0
                    await asyncio.sleep(0)
        return results

    def _find(self, window: Window, suspects: Sequence[_Armed], plain: bool) -> list[Finding]:
        """What is in the window. `suspects`: the patterns that may match in its raw text, and in its normal form too if
        its run is `plain`."""
        findings = [finding for armed in suspects for finding in _scan(armed, window)]
        if plain and all(armed.pattern.raw for armed in suspects):
            return findings
        places = Places(window, self._seen)
        for armed in suspects if plain else self._arsenals[window.stage].suspects(places.text):
            if not armed.pattern.raw:
                findings += places.findings(armed.category, armed.pattern.regex)
        # Where the normal form is the text itself, both find the same.
        return list(dict.fromkeys(findings))


def _arm(category: str, pattern: CompiledPattern) -> _Armed:
    dense = (tuple(_dense(fold(literal)) for literal in literals) for literals in pattern.required)
    # Most texts hold none of them: what takes few looks to know comes first.
    return _Armed(category, pattern, tuple(sorted((literals for literals in dense if all(literals)), key=len)))


def _dense(folded: str) -> str:
    """The text without its gaps, whose width is no matter to the normaliser."""
    return folded.replace(" ", "")


def _run_key(window: Window) -> tuple[int, Stage, int]:
    # Windows of one `feed` share the very same string; equal texts of different responses need not be told apart.
    return id(window.text), window.stage, window.end // RUN_SPAN


def _span(windows: Sequence[Window]) -> str:
    """The text that the windows cover, all in the same text, with the code point before it that `\\b` sees."""
    base = windows[0].base
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    return windows[0].text[max(0, start - base - 1) : end - base]


def _scan(armed: _Armed, window: Window) -> Iterator[Finding]:
    """All matches in the raw window. The text before it is visible to `\\b`, the text behind its end is not."""
    for match in armed.pattern.regex.finditer(window.text, window.start - window.base, window.end - window.base):
        start, end = match.start() + window.base, match.end() + window.base
        yield Finding(armed.category, start, end, open=end == window.end and not window.final)
