"""Where in a window the offence begins, asked of a backend that knows only how bad a whole text is. Pure.

The candidates are the starts of the window's last clauses: what lies before them is public, or was judged by an
earlier checkpoint. The offence begins at the latest candidate from which on the text still reaches the threshold, but
not behind the latest one up to which the text stays below it: of two offences in a row the first decides.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_STARTS = 8
"""Candidates per window. Each costs the judgement of two parts of the window."""

_SENTENCE = re.compile(r"(?:[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n\s*)(?=\S)")
_CLAUSE = re.compile(r"(?:[.!?…,;:]+[\"'”’)\]]*\s+|[ \t][-–—]+\s+|[。！？，；：、]+|\n\s*)(?=\S)")


@dataclass(frozen=True, slots=True)
class Candidates:
    """`starts` ascend, the first of them where what is not public yet begins. `texts` are to be judged: from each start
    to the end, then from `origin` up to each start but the first."""

    starts: tuple[int, ...]
    texts: tuple[str, ...]

    @classmethod
    def for_cut(cls, text: str, unpublished: int) -> "Candidates":
        """Of a window's text, whose last `unpublished` code points are certainly not all public. What stays public
        must stay below the threshold together with all that came before."""
        return cls._of(text, clause_starts(text, max(0, len(text) - unpublished)), 0)

    @classmethod
    def for_mask(cls, text: str, unpublished: int) -> "Candidates":
        """What was masked before stands in the window still: it says nothing about what follows."""
        starts = clause_starts(text, max(0, len(text) - unpublished))
        return cls._of(text, starts, starts[0])

    @classmethod
    def _of(cls, text: str, starts: tuple[int, ...], origin: int) -> "Candidates":
        return cls(starts, (*(text[start:] for start in starts), *(text[origin:start] for start in starts[1:])))


def clause_starts(text: str, anchor: int) -> tuple[int, ...]:
    """`anchor`, and where clauses begin behind it; where those are too many, sentences, or the last of those."""
    starts: list[int] = []
    for boundary in (_CLAUSE, _SENTENCE):
        starts = [match.end() for match in boundary.finditer(text, anchor)]
        if len(starts) < MAX_STARTS:
            break
    return (anchor, *starts[-(MAX_STARTS - 1) :])


def offence_start(candidates: Candidates, scores: Sequence[float], threshold: float) -> int | None:
    """One of the starts; `scores` are those of the candidates' texts. None where nothing that begins at one of them
    reaches `threshold`: it takes what lies before them to make the offence."""
    starts = candidates.starts
    suffixes, prefixes = scores[: len(starts)], scores[len(starts) :]
    latest = max((index for index, score in enumerate(suffixes) if score >= threshold), default=None)
    if latest is None:
        return None
    clean = next((index for index, score in enumerate(prefixes) if score >= threshold), len(prefixes))
    return starts[min(latest, clean)]
