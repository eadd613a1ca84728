"""The fold of one response's events: DESIGN 6, what a reader of the public log accepts.

Pure, and the same in the gateway's projections, history's recorder and an owner that takes over: the same log
gives the same text everywhere.

1. Events of an epoch lower than the highest seen for the response are ignored. `screening`, `accepted` (a second
   one too) and the terminal raise it; deltas do not: readers that skip them undecoded come to the same end.
2. A delta counts only as the contiguous continuation; each other kind counts once; after the terminal only
   `deleted` is valid, on the word of the response's tenant.
"""

from dataclasses import dataclass, field

from shared.records import Accepted, AnyTerminal, Deleted, Delta, Events, Screening, TokenLogprob

Counted = Accepted | Delta | AnyTerminal | Deleted


@dataclass(slots=True)
class EventFold:
    """The state of one response after some prefix of its events. `position` counts raw code points."""

    epoch: int = 0
    accepted: Accepted | None = None
    position: int = 0
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    terminal: AnyTerminal | None = None
    deleted: bool = False

    @property
    def text(self) -> str:
        """The public text so far."""
        return "".join(self.texts)

    def apply(self, record: Events) -> Counted | None:
        """Fold the next record in. Returns it if it counts, None if a reader must ignore it."""
        if isinstance(record, Deleted):
            return self._deleted(record)
        if record.epoch < self.epoch or self.terminal is not None or self.deleted:
            return None
        if isinstance(record, Delta):
            return self._delta(record)
        self.epoch = record.epoch
        if isinstance(record, Screening):
            return None
        if isinstance(record, Accepted):
            return self._accepted(record)
        if self.accepted is None:
            return None
        self.terminal = record
        return record

    def _deleted(self, record: Deleted) -> Deleted | None:
        if self.deleted or (self.accepted is not None and record.tenant != self.accepted.tenant):
            return None
        self.deleted = True
        return record

    def _accepted(self, record: Accepted) -> Accepted | None:
        if self.accepted is not None:
            return None
        self.accepted = record
        return record

    def _delta(self, record: Delta) -> Delta | None:
        if self.accepted is None or record.start != self.position:
            return None
        self.position = record.end
        self.texts.append(record.text)
        self.logprobs.extend(record.logprobs)
        return record
