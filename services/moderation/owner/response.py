"""One response in its owner's hands: the folds, the screen and what was done about them. No I/O."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from services.moderation.judging import Context, Judge
from services.moderation.owner.arrivals import Arrivals
from services.moderation.owner.entering import Entering
from services.moderation.owner.gate import Gate
from services.moderation.owner.line import Line
from services.moderation.owner.tally import Tally
from services.moderation.owner.watch import Timeline
from services.moderation.verdicts import Trail
from services.moderation.windows import TextScreen
from shared.folds import JournalFold
from shared.ids import parse_response_id
from shared.records import (
    AnyTerminal,
    Cancel,
    Cancelled,
    Completed,
    Cut,
    Failed,
    Finish,
    Incomplete,
    ModerationResult,
    Requested,
    TokenLogprob,
    Usage,
)


@dataclass(slots=True)
class Owned:
    """A response that this owner answers for.

    `fold` is the journal so far; `epoch` stamps what is published; `fed` counts the pieces that the screen has seen.
    `late`: the request is older than our hold on its partition. `ending`: the journal was told that it must end.
    `lonely_since_ms`: nobody follows it; `overdue_since_ms`: its deadline is past, and what was said is not judged yet.
    `logprobs` are the public ones, `shown` counts those of the journal that were judged.

    `judged_by` is fixed with the first look: a response keeps its policy; `context` are the turns before the answer.
    `entering`: its input is being judged. `line` has the windows that wait for their judgement, `events` what waits for
    its verdict to become public, `tally` the scores. `resumed_at`: how far in the raw text others had made it public;
    `public_texts`: as what, and what we released behind it. `stopped`: its worker was told.

    `arrivals` knows when the text came that is not public yet. `closing` are the appends that end the response here:
    its terminal event, or what tells others that nothing became of it; once all are acknowledged, the owner may forget
    the response.

    `span` is over the screening of its output; `accepted_trace` leads to that of another owner, who accepted it,
    `attempt_trace` to the last job that was sent.
    """

    requested: Requested
    offset: int
    trace: Mapping[str, str]
    fold: JournalFold
    epoch: int
    late: bool = False
    accepted: bool = False
    judged_by: Judge | None = None
    context: Context = ()
    entering: Entering | None = None
    screen: TextScreen | None = None
    events: Gate | None = None
    line: Line = field(default_factory=Line)
    tally: Tally = field(default_factory=Tally)
    resumed_at: int = 0
    public_texts: list[str] = field(default_factory=list)
    stopped: bool = False
    fed: int = 0
    shown: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    times: Timeline = field(default_factory=Timeline)
    arrivals: Arrivals = field(default_factory=Arrivals)
    ending: bool = False
    closing: "Sequence[asyncio.Future[Any]] | None" = None
    lonely_since_ms: int | None = None
    overdue_since_ms: int | None = None
    span: Span | None = None
    accepted_trace: Mapping[str, str] = field(default_factory=dict)
    attempt_trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.requested.response_id

    @property
    def partition(self) -> int:
        """The partition of both logs that holds the response."""
        return parse_response_id(self.id).partition

    @property
    def closed(self) -> bool:
        """Nothing is left to decide or to publish."""
        return self.closing is not None

    @property
    def came_to_nothing(self) -> bool:
        """It was closed, and never was public."""
        return self.closed and not self.accepted

    @property
    def judge(self) -> Judge:
        """Who judges it. Only for a response that was looked at."""
        assert self.judged_by is not None, "nobody looked at the response yet"
        return self.judged_by

    @property
    def gate(self) -> Gate:
        """What becomes public. Only for an accepted response."""
        assert self.events is not None, "the response is not accepted"
        return self.events

    @property
    def trail(self) -> Trail:
        """The verdicts on it."""
        return Trail(self.id, self.requested.tenant, self.judge.policy)

    @property
    def judging(self) -> bool:
        """It waits for a backend's answer."""
        return bool(self.line) or self.entering is not None

    @property
    def public(self) -> tuple[int, str]:
        """How far in the raw text it is public, and as what. Whoever took over judges from the beginning: what the last
        owner published stands, whatever a backend says now, and what we released behind it follows."""
        assert self.screen is not None, "an accepted response has a screen"
        return max(self.resumed_at, self.screen.position), "".join(self.public_texts)

    def unseen_pieces(self) -> list[str]:
        """Pieces of raw text that the screen has not been fed yet; marks them as fed."""
        pieces = self.fold.pieces[self.fed :]
        self.fed = len(self.fold.pieces)
        return pieces

    def usage(self) -> Usage:
        """Token counts as of now."""
        finish = self.fold.decision if isinstance(self.fold.decision, Finish) else None
        return Usage(
            input_tokens=finish.input_tokens if finish else self.requested.input_tokens,
            output_tokens=len(self.fold.ids),
            cached_tokens=finish.cached_tokens if finish else 0,
        )


def failed_by(
    cut: Cut, owned: Owned, *, text: str, finished_ms: int, moderation: ModerationResult | None = None
) -> Failed:
    """The end of a response that the owner gave up, with its whole public text."""
    return Failed(**_common(owned, text, finished_ms, moderation), code=cut.code, message=cut.message)


def terminal_of(
    owned: Owned, *, text: str, violated: bool, finished_ms: int, moderation: ModerationResult | None = None
) -> AnyTerminal:
    """The response's one end, with its whole public text. A violation outranks the decision: the text came first.
    `moderation`: what was made of the output, if the request wants to know."""
    common = _common(owned, text, finished_ms, moderation)
    decision = owned.fold.decision
    if violated:
        return Incomplete(**common, reason="content_filter")
    match decision:
        case Finish(reason="stop"):
            return Completed(**common)
        case Finish():
            return Incomplete(**common, reason="max_output_tokens")
        case Cancel():
            return Cancelled(**common)
        case Cut(reason="policy"):
            return Incomplete(**common, reason="content_filter")
        case Cut():
            return failed_by(decision, owned, text=text, finished_ms=finished_ms, moderation=moderation)
        case None:
            raise AssertionError(f"{owned.id} has no decision yet")


def outcome_of(owned: Owned, terminal: AnyTerminal) -> tuple[str, str]:
    """How the response ended and why, in the few words that metrics have for it; no reason: it is complete."""
    decision = owned.fold.decision
    match terminal:
        case Completed():
            reason = ""
        case Incomplete():
            reason = str(terminal.reason)
        case Cancelled():
            reason = decision.reason if isinstance(decision, Cancel) else "requested"
        case Failed():
            out_of_time = isinstance(decision, Cut) and decision.reason == "deadline"
            reason = "deadline" if out_of_time else terminal.code
    return str(terminal.__struct_config__.tag), reason


def _common(owned: Owned, text: str, finished_ms: int, moderation: ModerationResult | None) -> dict[str, Any]:
    return {
        "response_id": owned.id,
        "epoch": owned.epoch,
        "tenant": owned.requested.tenant,
        "text": text,
        "usage": owned.usage(),
        "finished_ms": finished_ms,
        "logprobs": owned.logprobs,
        "moderation": moderation,
    }
