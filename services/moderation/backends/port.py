"""The port behind which models and detectors judge text."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from services.moderation.windows import Stage
from shared.records import Message


class BackendError(Exception):
    """The backend has no answer for these texts; the message says why, without the text."""


class Excerpt(msgspec.Struct, frozen=True, gc=False):
    """A text to judge: a window, or a part of one. `raw` is as it was said, `text` as the normaliser has it.

    `context`: the turns before it, oldest first; a model that judges a dialogue reads them, others need not.
    """

    raw: str
    text: str
    stage: Stage
    context: tuple[Message, ...] = ()


class Span(msgspec.Struct, frozen=True, gc=False):
    """A place `[start, end)` in the raw text of an excerpt where there is something of `category`."""

    category: str
    start: int
    end: int
    score: float


class Judgement(msgspec.Struct, frozen=True, gc=False):
    """What a backend makes of one excerpt: `scores` of the whole, category → [0, 1], calibrated as far as the backend
    is; `spans` where it knows places (detectors do, classifiers do not). `flagged`: what the backend itself calls a
    violation, whatever the policy's thresholds say (for the policy's `combine: any`)."""

    scores: Mapping[str, float] = {}
    spans: tuple[Span, ...] = ()
    flagged: frozenset[str] = frozenset()


class Backend(Protocol):
    """Judges excerpts. The answer for one is a function of that excerpt alone, never of what else is in the batch.

    `categories`: all that it can score, by the policy's names. `revision`: what tells two versions of it apart, in
    verdicts and in the policy's digest. `batch`: how many excerpts it likes at once.
    """

    name: str
    revision: str
    categories: frozenset[str]
    batch: int

    async def start(self) -> None:
        """Load or connect. Raises SettingsError, which says what to do, where it can never work."""
        ...

    async def judge(self, excerpts: Sequence[Excerpt]) -> Sequence[Judgement]:
        """One judgement per excerpt, in order; at most `batch` of them. Blocking work runs in a thread. Raises
        BackendError. Whoever calls keeps the time: a cancelled call leaves the backend usable. Calls may overlap: the
        texts of one that failed are asked about again, each alone and all together."""
        ...

    async def stop(self) -> None:
        """Free what `start` took."""
        ...
