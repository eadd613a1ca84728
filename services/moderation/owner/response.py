"""One response in its owner's hands: the folds, the screen and what was done about them. No I/O."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from services.moderation.owner.watch import Timeline
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
    Requested,
    TokenLogprob,
    Usage,
)


@dataclass(slots=True)
class Owned:
    """A response that this owner answers for.

    `fold` is the journal so far; `epoch` stamps what is published; `fed` counts the pieces that the screen has seen.
    `late`: the request is older than our hold on its partition. `ending`: the journal was told that it must end.
    `logprobs` are the public ones, `shown` counts those of the journal that were judged.
    `closing` are the appends that end the response here: its terminal event, or what tells others that nothing became
    of it; once all are acknowledged, the owner may forget the response.
    """

    requested: Requested
    offset: int
    trace: Mapping[str, str]
    fold: JournalFold
    epoch: int
    late: bool = False
    accepted: bool = False
    screen: TextScreen | None = None
    fed: int = 0
    shown: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    times: Timeline = field(default_factory=Timeline)
    ending: bool = False
    closing: "Sequence[asyncio.Future[Any]] | None" = None
    lonely_since_ms: int | None = None
    span: Span | None = None

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


def failed_by(cut: Cut, owned: Owned, *, text: str, finished_ms: int) -> Failed:
    """The end of a response that the owner gave up, with its whole public text."""
    return Failed(**_common(owned, text, finished_ms), code=cut.code, message=cut.message)


def terminal_of(owned: Owned, *, text: str, violated: bool, finished_ms: int) -> AnyTerminal:
    """The response's one end, with its whole public text. A violation outranks the decision: the text came first."""
    common = _common(owned, text, finished_ms)
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
            return failed_by(decision, owned, text=text, finished_ms=finished_ms)
        case None:
            raise AssertionError(f"{owned.id} has no decision yet")


def _common(owned: Owned, text: str, finished_ms: int) -> dict[str, Any]:
    return {
        "response_id": owned.id,
        "epoch": owned.epoch,
        "tenant": owned.requested.tenant,
        "text": text,
        "usage": owned.usage(),
        "finished_ms": finished_ms,
        "logprobs": owned.logprobs,
    }
