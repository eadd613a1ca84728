"""Rules with one of DESIGN 5 and 6 removed. Each variant says what it leaves out."""

from collections.abc import Iterable, Sequence

from services.inference.claims import Seam
from services.inference.generation import Generation
from services.inference.text import AnswerText
from services.moderation.windows import Finding, Outcome, Release, TextScreen, Window
from shared.folds import Effect, EventFold, JournalFold
from shared.folds.events import Counted
from shared.records import Accepted, AnyTerminal, Cancel, Claimed, Cut, Delta, Dispatched, Events, Journal, Tokens

# -- DESIGN 5 ------------------------------------------------------------------------------------------------


class TokensOfAnyClaim(JournalFold):
    """5.1 without "tokens of any other claim are ignored"."""

    def _tokens(self, record: Tokens) -> Effect:
        if record.claim in self.claims:
            self.owner = self.claims[record.claim]
            self.owner.live = True
        return JournalFold._tokens(self, record)


class LastClaimWins(JournalFold):
    """5.1 without "the first claim": a second one of the same attempt takes the response away."""

    def _claimed(self, record: Claimed) -> Effect:
        if self.owner is not None and record.attempt == self.owner.attempt and record.claim not in self.claims:
            self.owner = None
        return JournalFold._claimed(self, record)


class AnyAttemptWins(JournalFold):
    """5.1 without "of the highest attempt"."""

    def _claimed(self, record: Claimed) -> Effect:
        if record.claim not in self.claims:
            self.owner = None
        return JournalFold._claimed(self, record)


class AClaimCountsAgain(JournalFold):
    """5.1 without "a claim id counts once"."""

    def _claimed(self, record: Claimed) -> Effect:
        if self.claims.pop(record.claim, None) is not None:
            self.owner = None
        return JournalFold._claimed(self, record)


class StartsElsewhere(JournalFold):
    """5.2 without "a claim whose first tokens start elsewhere is void": they count where they come."""

    def _tokens(self, record: Tokens) -> Effect:
        claim = self.owner
        if claim is not None and record.claim == claim.id and claim.live and not claim.started:
            return self._advance(claim, record)
        return JournalFold._tokens(self, record)


class AnyPosition(JournalFold):
    """5.4 without "readers drop by position"."""

    def _tokens(self, record: Tokens) -> Effect:
        claim = self.owner
        if claim is None or record.claim != claim.id or not claim.live:
            return Effect.IGNORED
        return self._advance(claim, record)


class BuffersOverGaps(JournalFold):
    """5.4 without "gaps are never buffered over": what comes early waits for whoever fills the gap."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, Tokens] = {}

    def _tokens(self, record: Tokens) -> Effect:
        claim = self.owner
        ours = claim is not None and record.claim == claim.id and claim.live
        if ours and record.position > self.position:
            self._waiting[record.position] = record
            return Effect.IGNORED
        effect = JournalFold._tokens(self, record)
        while effect is Effect.ADVANCED and self.owner is not None and self.position in self._waiting:
            effect = self._advance(self.owner, self._waiting.pop(self.position))
        return effect


class LastDecisionWins(JournalFold):
    """5.6 without "the first terminal decision wins"."""

    def apply(self, record: Journal) -> Effect:
        if self.decision is not None and isinstance(record, Cancel | Cut | Tokens):
            self.decision = None
        return JournalFold.apply(self, record)


def reads_up_to_its_job(journal: Iterable[Journal], claim: str) -> tuple[int, ...] | None:
    """5.2 without "reads the journal up to its own claim": up to the dispatch of its attempt."""
    records = list(journal)
    attempt = next(r.attempt for r in records if isinstance(r, Claimed) and r.claim == claim)
    fold = JournalFold()
    for record in records:
        fold.apply(record)
        if isinstance(record, Dispatched) and record.attempt >= attempt:
            break
    return tuple(fold.ids)


class Unprimed(Generation):
    """5.2 without "primes its decoder with the ids said by then"."""

    def resume(self, said: tuple[int, ...], limit: int) -> Seam:
        seam = super().resume(said, limit)
        self._text = AnswerText(self._tokenizer)
        return seam


# -- DESIGN 6 ------------------------------------------------------------------------------------------------


class AnyEpoch(EventFold):
    """6.1 without "readers ignore epochs lower than the highest seen"."""

    def apply(self, record: Events) -> Counted | None:
        self.epoch = min(self.epoch, record.epoch)
        return EventFold.apply(self, record)


class AnyDelta(EventFold):
    """6.2 without "a reader accepts only the contiguous continuation"."""

    def _delta(self, record: Delta) -> Delta | None:
        self.position = record.end
        self.texts.append(record.text)
        return record


class AnyTerminalCounts(EventFold):
    """6.2 without "each non-delta kind counts once": terminals go on counting."""

    def apply(self, record: Events) -> Counted | None:
        if isinstance(record, AnyTerminal) and self.terminal is not None:
            self.terminal = record
            return record
        return EventFold.apply(self, record)


class AcceptedCountsAgain(EventFold):
    """6.2 without "each non-delta kind counts once": each acceptance begins anew."""

    def _accepted(self, record: Accepted) -> Accepted | None:
        self.accepted = None
        return EventFold._accepted(self, record)


class WindowsByArrival(TextScreen):
    """6.3 without windows at fixed places: what has arrived is released, whole."""

    def resolve(self, windows: Sequence[Window], findings: Iterable[Sequence[Finding]]) -> Outcome:
        outcome = super().resolve(windows, findings)
        if self.done or self.fed <= self._released:
            return outcome
        rest = Release(self._released, self.fed, self._tail[self._released - self._base :], self._released_by)
        self._released = self._emitted = rest.end
        return Outcome([*outcome.releases, rest], outcome.decisions)


class JoinsReleases(TextScreen):
    """6.3 without "never of arrival times or batching": what several windows release at once is one delta."""

    def resolve(self, windows: Sequence[Window], findings: Iterable[Sequence[Finding]]) -> Outcome:
        outcome = super().resolve(windows, findings)
        joined: list[Release] = []
        for release in outcome.releases:
            before = joined.pop() if joined else Release(release.start, release.start, "", release.window)
            joined.append(Release(before.start, release.end, before.text + release.text, release.window))
        return Outcome(joined, outcome.decisions)
