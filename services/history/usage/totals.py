"""The fold of one partition of `responses.events` into what its responses used. Pure.

What counts is what every reader of the log accepts (`EventFold`), so a late copy, a superseded owner's end and an end
without a beginning count for nothing. The totals stand beside the offset up to which they count, in the note of one and
the same commit: whoever takes the partition over goes on from both. What it must know of responses that began before
that offset, it reads again, from the note's `replay_from` on.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from services.history.stores.port import Recordable
from shared.folds.events import EventFold
from shared.records import TERMINALS, Accepted, AnyTerminal

_ENDED = EventFold(deleted=True)
"""Of whatever ended nothing counts any more; its texts need not be kept."""

REMEMBERED_MS = 10 * 60 * 1000
"""How long after its end a response is known to have ended: longer than a superseded owner, or a copy in the network,
can be late. By the log's clock."""
OVERDUE_MS = 60 * 60 * 1000
"""How long after its deadline a response may still end: an outage of the broker."""


class Totals(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the ended responses of a partition used. `responses`: outcome (the terminal's kind) → how many."""

    input_tokens: int = 0
    output_tokens: int = 0
    responses: dict[str, int] = {}

    def with_end(self, terminal: AnyTerminal) -> "Totals":
        """One response more."""
        outcome = str(terminal.__struct_config__.tag)
        return Totals(
            self.input_tokens + terminal.usage.input_tokens,
            self.output_tokens + terminal.usage.output_tokens,
            {**self.responses, outcome: self.responses.get(outcome, 0) + 1},
        )


class Note(msgspec.Struct, frozen=True):
    """What a commit says beside its offset; `replay_from`: from where on the log must be read again to go on."""

    totals: Totals
    replay_from: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(slots=True)
class _Response:
    first_offset: int
    fold: EventFold
    forget_ms: int


class PartitionUsage:
    """The state after some prefix of a partition; `totals` counts from offset `counts_from` on."""

    def __init__(self, totals: Totals, counts_from: int) -> None:
        self.totals = totals
        self._counts_from = counts_from
        self._responses: dict[str, _Response] = {}
        self._now_ms = 0

    def apply(self, record: Recordable, offset: int, log_ms: int) -> None:
        """Fold the next record in: at `offset`, appended at `log_ms` by the log's clock."""
        self._now_ms = max(self._now_ms, log_ms)
        response = self._responses.get(record.response_id)
        if response is None:
            response = self._responses[record.response_id] = _Response(offset, EventFold(), log_ms + OVERDUE_MS)
        counted = response.fold.apply(record)
        if isinstance(counted, Accepted):
            response.forget_ms = counted.deadline_ms + OVERDUE_MS
        elif isinstance(counted, TERMINALS):
            response.fold = _ENDED
            response.forget_ms = log_ms + REMEMBERED_MS
            if offset >= self._counts_from:
                self.totals = self.totals.with_end(counted)

    def note(self, next_offset: int) -> Note:
        """What to commit with `next_offset`, the offset behind the last record of the partition that was read."""
        for response_id in [name for name, one in self._responses.items() if one.forget_ms < self._now_ms]:
            del self._responses[response_id]
        # The first is the oldest: they stand in the order in which they began.
        oldest = next(iter(self._responses.values()), None)
        return Note(self.totals, next_offset if oldest is None else oldest.first_offset)
