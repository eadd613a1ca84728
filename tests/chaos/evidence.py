"""What a run leaves behind, and what can be found broken in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from services.history.stores.port import StoredResponse
from shared.records.codec import Envelope
from tests.chaos.observations import AnyClientLine, AnyFaultLine

SubLog = Sequence[Envelope[Any]]


class Rule(Enum):
    """What can be broken; the value is how reports call it."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    UNTERMINATED = "unterminated"
    AFTER_TERMINAL = "after the terminal"
    TEXT = "text differs from the terminal's"
    LOGPROBS = "log probabilities otherwise than said"
    SPLICED = "spliced"
    CLAIMS = "public without a counting claim"
    UNSCREENED = "unscreened"
    UNJUDGED = "public before its verdict"
    JUDGED_TWICE = "judged in two ways"
    STORED = "stored otherwise than told"
    WRONG_END = "ended wrongly"
    FORGOTTEN = "unknown on resume"


class Harm(Enum):
    """What only a scenario can find, because it knows what it did."""

    SLOWED = "slowed by another"
    NOT_CLOSED = "not closed in time"
    MEMORY = "memory grew"
    NOT_BURIED = "poison not put aside"
    DIED = "a service ended"
    HELD = "slot held too long"
    RECLAIMED = "claimed again without need"
    AMNESIA = "last turn forgotten"
    DIFFERENT = "followers saw different bytes"
    LATE = "resumed too late"
    ALARM = "an error in a service's log"
    ODD = "an answer that nothing explains"
    LOCKED = "still locked"
    INTERLEAVED = "turns interleaved"
    DISORDERED = "stands in another order"
    TWICE = "stored twice"
    MISSING = "not stored"
    MADE_UP = "stored, and never told"
    REMEMBERED = "erased and remembered"
    UNTOLD = "others were not told"


@dataclass(frozen=True, slots=True)
class Violation:
    """`where` is a stream ("stream 7"), a response id or a part of the mesh."""

    rule: Rule | Harm
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A place in a raw text, in code points: it may be public only as `mask`; None: the public text ends before it."""

    start: int
    end: int
    mask: str | None


@dataclass(frozen=True)
class Screening:
    """A policy simple enough to be checked without the code that carries it out: fixed words, none inside another,
    none longer than `hold_back`. `masks` says what stands for a word; before one of `cuts` the text ends."""

    stride: int
    hold_back: int
    masks: Mapping[str, str] = field(default_factory=dict)
    cuts: tuple[str, ...] = ()

    def policy(self, version: str) -> str:
        """The policy file."""
        entries = [(word, "cut", "") for word in self.cuts]
        entries += [(word, "mask", f", mask: '{mask}'") for word, mask in self.masks.items()]
        categories = "".join(
            f"  word-{number}: {{patterns: ['{word}'], output: {action}{mask}}}\n"
            for number, (word, action, mask) in enumerate(entries)
        )
        # As large as what is held back allows: a verdict on each range is due before the range is public.
        checkpoint = max(self.stride, self.hold_back // self.stride * self.stride)
        streaming = f"{{stride: {self.stride}, checkpoint: {checkpoint}, lookback: 64, hold_back: {self.hold_back}}}"
        return f"version: {version}\nstreaming: {streaming}\ncategories:" + (f"\n{categories}" if entries else " {}\n")

    def forbidden(self, raw: str) -> list[Forbidden]:
        """What must not be public of `raw`, in order; a cut, if there is one, is the last."""
        words = [*self.cuts, *self.masks]
        found: list[Forbidden] = []
        for match in re.finditer("|".join(map(re.escape, words)), raw, re.IGNORECASE) if words else ():
            found.append(Forbidden(match.start(), match.end(), self.masks.get(match.group().lower())))
            if found[-1].mask is None:
                break
        return found

    def public(self, raw: str) -> str:
        """The public text of a whole raw text."""
        pieces, at = list[str](), 0
        for place in self.forbidden(raw):
            pieces.append(raw[at : place.start])
            if place.mask is None:
                return "".join(pieces)
            pieces.append(place.mask)
            at = place.end
        return "".join([*pieces, raw[at:]])


NOTHING_FORBIDDEN = Screening(stride=1, hold_back=0)


@dataclass(frozen=True)
class Evidence:
    """One run. `journals` and `events` hold each response's records in log order; `references` the text that each
    prompt must get; `stored` what history holds of each response in the logs, `verdicts` each response's, in log order
    (None: nothing was looked up)."""

    lines: Sequence[AnyClientLine | AnyFaultLine]
    journals: Mapping[str, SubLog]
    events: Mapping[str, SubLog]
    references: Mapping[str, str]
    screening: Screening | None = None
    stored: Mapping[str, StoredResponse | None] | None = None
    verdicts: Mapping[str, SubLog] | None = None
