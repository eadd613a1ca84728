"""The fold of one response's journal: DESIGN 5, the rules by which many processes agree on one generation.

Pure. The owner folds a whole partition with it; a worker that takes over folds up to its own claim. Both come
to the same tokens, because everything that decides stands in the journal, in one order.

Rules, by the numbers of DESIGN 5:

1. The first claim of the highest attempt owns the response; a claim id counts once; tokens of others are ignored.
2. A new owner's tokens start exactly at the next position, else its claim is void.
4. Readers drop by position what arrives a second time; a gap (a lost append) voids the claim: nothing is
   buffered over it.
6. The first terminal decision wins: finish, cancel or cut. Nothing counts after it. A request that asks for no
   output (`generate` false) is finished as soon as it stands there.
7. Three attempts without progress, or ten in all, are exhausted; a worker without a free slot made no attempt.
"""

from dataclasses import dataclass, field
from enum import Enum

from shared.records import (
    Attached,
    Cancel,
    Claimed,
    Cut,
    Delete,
    Detached,
    Dispatched,
    Finish,
    Journal,
    Released,
    Requested,
    TokenLogprob,
    Tokens,
)

MAX_ATTEMPTS = 10
MAX_ATTEMPTS_WITHOUT_PROGRESS = 3

Decision = Finish | Cancel | Cut


class Effect(Enum):
    """What a record did to the fold."""

    IGNORED = "ignored"
    REQUESTED = "requested"
    DISPATCHED = "dispatched"
    CLAIMED = "claimed"
    ADVANCED = "advanced"
    RELEASED = "released"
    VOIDED = "voided"
    DECIDED = "decided"
    FOLLOWERS = "followers"


@dataclass(slots=True)
class Claim:
    """One worker's hold on the response. `live` ends when it is released (`reason` says why) or turns out void."""

    id: str
    attempt: int
    worker: str
    mailbox: int
    started: bool = False
    live: bool = True
    reason: str = ""


@dataclass(slots=True)
class JournalFold:
    """The state of one response after some prefix of its journal. Positions count tokens."""

    requested: Requested | None = None
    attempt: int = 0
    attempts_counted: int = 0
    attempts_without_progress: int = 0
    claims: dict[str, Claim] = field(default_factory=dict)
    owner: Claim | None = None
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    decision: Decision | None = None
    followers: set[str] = field(default_factory=set)

    @property
    def position(self) -> int:
        """Where the next token goes."""
        return len(self.ids)

    @property
    def text(self) -> str:
        """The raw, unscreened text so far."""
        return "".join(self.pieces)

    @property
    def exhausted(self) -> bool:
        """No further attempt may start (rule 7)."""
        return self.attempts_counted >= MAX_ATTEMPTS or self.attempts_without_progress >= MAX_ATTEMPTS_WITHOUT_PROGRESS

    def apply(self, record: Journal) -> Effect:
        """Fold the next record of this response in; records of other responses are the caller's mistake."""
        if isinstance(record, Requested):
            return self._requested(record)
        if self.requested is None or self.decision is not None:
            return Effect.IGNORED
        match record:
            case Tokens():
                return self._tokens(record)
            case Claimed():
                return self._claimed(record)
            case Dispatched():
                return self._dispatched(record)
            case Released():
                return self._released(record)
            case Cancel() | Cut():
                self.decision = record
                return Effect.DECIDED
            case Attached():
                self.followers.add(record.gateway)
                return Effect.FOLLOWERS
            case Detached():
                self.followers.discard(record.gateway)
                return Effect.FOLLOWERS
            case Delete():
                return Effect.IGNORED  # erases what has ended; this has not

    def _requested(self, record: Requested) -> Effect:
        if self.requested is not None:
            return Effect.IGNORED
        self.requested = record
        if record.reply_to is not None:
            self.followers.add(record.reply_to.gateway)
        if not record.spec.generate:
            self.decision = Finish(reason="stop", input_tokens=record.input_tokens)
        return Effect.REQUESTED

    def _dispatched(self, record: Dispatched) -> Effect:
        if record.attempt <= self.attempt:
            return Effect.IGNORED
        self._start_attempt(record.attempt)
        return Effect.DISPATCHED

    def _start_attempt(self, attempt: int) -> None:
        self.attempts_counted += attempt - self.attempt
        self.attempts_without_progress += attempt - self.attempt
        self.attempt = attempt

    def _claimed(self, record: Claimed) -> Effect:
        if record.claim in self.claims:
            return Effect.IGNORED
        claim = Claim(record.claim, record.attempt, record.worker, record.mailbox)
        self.claims[record.claim] = claim
        if record.attempt > self.attempt:
            # The claim of a dispatch whose own record was lost or is still on its way: the claim proves it.
            self._start_attempt(record.attempt)
        if self.owner is not None and record.attempt <= self.owner.attempt:
            claim.live = False
            return Effect.IGNORED
        self.owner = claim
        return Effect.CLAIMED

    def _tokens(self, record: Tokens) -> Effect:
        claim = self.owner
        if claim is None or record.claim != claim.id or not claim.live:
            return Effect.IGNORED
        if record.position != self.position:
            if claim.started and record.position < self.position:
                return Effect.IGNORED
            claim.live = False
            return Effect.VOIDED
        return self._advance(claim, record)

    def _advance(self, claim: Claim, record: Tokens) -> Effect:
        claim.started = True
        self.ids.extend(record.ids)
        self.pieces.extend(record.pieces)
        self.logprobs.extend(record.logprobs)
        if record.ids:
            self.attempts_without_progress = 0
        if record.finish is None:
            return Effect.ADVANCED
        self.decision = record.finish
        return Effect.DECIDED

    def _released(self, record: Released) -> Effect:
        claim = self.claims.get(record.claim)
        if claim is None or not claim.live:
            return Effect.IGNORED
        claim.live = False
        claim.reason = record.reason
        if record.full:
            self.attempts_counted -= 1
            self.attempts_without_progress -= 1
        return Effect.RELEASED if claim is self.owner else Effect.IGNORED
