"""What prefixes of the two logs mean: the shipped folds, screen, claims and projection over the table of records.

All of it is pure, so results are kept by prefix; a prefix is folded once however many states share it.
"""

from typing import Any, Literal, NamedTuple

import msgspec
from opentelemetry.trace import INVALID_SPAN

from services.gateway.projections import ClientEvent, ResponsesProjection
from services.inference.engines.port import FinishReason, StepOutput
from services.moderation.owner.response import Owned, failed_by, terminal_of
from services.moderation.policy import Policy
from services.moderation.windows import Finding, Outcome, Window
from shared.folds import EventFold, JournalFold
from shared.ids import new_response_id, parse_response_id
from shared.records import (
    Accepted,
    AnyTerminal,
    Cancel,
    Claimed,
    Cut,
    Delta,
    Dispatched,
    Events,
    Job,
    Journal,
    Message,
    Released,
    Requested,
    ResponseSpec,
    Sampling,
    Screening,
    Tokens,
)
from tests.model.rules import Rules
from tests.model.text import LIMIT, Ids, Language
from tests.model.world import Held, Log, Owner

R = new_response_id(1, unix_ms=1_790_000_000_000).text
POLICY_CHANGED = "the policy changed"
DEAF = "a backend is missing"
_FINISHED_MS = 1_790_000_000_900


class Screened(NamedTuple):
    """What a screen that was fed so far released last, and where it stands."""

    outcome: Outcome
    done: bool
    position: int


class Table:
    """All records of an exploration, each once, by index."""

    def __init__(self) -> None:
        self._index: dict[bytes, int] = {}
        self.records: list[Any] = []

    def add(self, record: Journal | Events) -> int:
        """The record's index."""
        key = msgspec.json.encode(record)
        if key not in self._index:
            self._index[key] = len(self.records)
            self.records.append(record)
        return self._index[key]


class Folding:
    """The pure core as the modelled processes use it."""

    def __init__(self, rules: Rules, policies: tuple[Policy, Policy]) -> None:
        self.rules = rules
        self.policies = policies
        self.table = Table()
        self.language = Language()
        self._tokenizer = self.language.tokenizer()
        self._journals: dict[Log, JournalFold] = {}
        self._events: dict[Log, EventFold] = {}
        self._screens: dict[tuple[int, tuple[str, ...], tuple[str, ...], bool], Screened] = {}
        self._tokens: dict[tuple[Held, Ids], int] = {}
        self._projections: dict[Log, list[ClientEvent]] = {}

    # -- records ---------------------------------------------------------------------------------------------

    def requested(self) -> Requested:
        """The client's request."""
        spec = ResponseSpec(model="m", input=[Message(role="user", parts=["hi"])])
        return Requested(response_id=R, tenant="t", spec=spec, created_ms=0, deadline_ms=1, input_tokens=1)

    def accepted(self, epoch: int, owner: int) -> Accepted:
        """The owner's acceptance."""
        request = self.requested()
        return Accepted(
            response_id=R,
            epoch=epoch,
            tenant="t",
            spec=request.spec,
            policy=self.policies[owner].name,
            created_ms=0,
            deadline_ms=1,
            input_tokens=1,
        )

    def screening(self, epoch: int, owner: int) -> Screening:
        """A takeover's marker."""
        return Screening(response_id=R, epoch=epoch, owner=f"owner {owner}")

    def deltas(self, outcome: Outcome, epoch: int, owner: int) -> list[Delta]:
        """What an outcome makes public."""
        return [
            Delta(
                response_id=R,
                epoch=epoch,
                start=release.start,
                end=release.end,
                text=release.text,
                policy=self.policies[owner].name,
                window=release.window,
            )
            for release in outcome.releases
        ]

    def terminal(self, fold: JournalFold, epoch: int, text: str, *, violated: bool) -> AnyTerminal:
        """The shipped end of a response."""
        owned = Owned(self.requested(), 0, {}, fold, epoch)
        return terminal_of(owned, text=text, violated=violated, finished_ms=_FINISHED_MS)

    def given_up(self, fold: JournalFold, epoch: int, text: str, why: str) -> AnyTerminal:
        """The shipped end of a response that its owner cannot go on with: what is public stays."""
        owned = Owned(self.requested(), 0, {}, fold, epoch)
        return failed_by(self.cut("failed", why), owned, text=text, finished_ms=_FINISHED_MS)

    def dispatched(self, attempt: int, worker: int) -> Dispatched:
        """The owner's note of a job."""
        return Dispatched(response_id=R, attempt=attempt, worker=f"worker {worker}", mailbox=worker)

    def claimed(self, claim: int, attempt: int, worker: int) -> Claimed:
        """A worker's claim."""
        return Claimed(response_id=R, claim=f"c{claim}", attempt=attempt, worker=f"worker {worker}", mailbox=worker)

    def released(self, held: Held, worker: int) -> Released:
        """A worker gives a claim up."""
        name = f"c{held.claim}"
        return Released(response_id=R, claim=name, attempt=held.attempt, worker=f"worker {worker}", reason="lost")

    def cancel(self) -> Cancel:
        """The client cancels."""
        return Cancel(response_id=R)

    def cut(self, reason: Literal["policy", "failed"] = "policy", message: str = "", *, of_input: bool = False) -> Cut:
        """The owner ends it, or says that nothing became of it."""
        return Cut(response_id=R, reason=reason, message=message, stage="input" if of_input else "output")

    # -- folds -----------------------------------------------------------------------------------------------

    def of(self, log: Log) -> list[Any]:
        """The records of a log."""
        return [self.table.records[index] for index in log]

    def journal(self, log: Log) -> JournalFold:
        """The journal's fold; shared, never to be changed."""
        if log not in self._journals:
            fold = self.rules.journal_fold()
            for record in self.of(log):
                fold.apply(record)
            self._journals[log] = fold
        return self._journals[log]

    def events(self, log: Log) -> EventFold:
        """The events' fold; shared, never to be changed."""
        if log not in self._events:
            fold = self.rules.event_fold()
            for record in self.of(log):
                fold.apply(record)
            self._events[log] = fold
        return self._events[log]

    def project(self, log: Log) -> list[ClientEvent]:
        """What a client gets of this prefix of the events."""
        if log not in self._projections:
            projection = ResponsesProjection(parse_response_id(R))
            self._projections[log] = [event for record in self.of(log) for event in projection.feed(record)]
        return self._projections[log]

    # -- worker ----------------------------------------------------------------------------------------------

    def said_before(self, log: Log, claim: int) -> Ids | None:
        """What a takeover reads in the journal up to its own claim."""
        return self.rules.said_before(self.of(log), f"c{claim}")

    def next_tokens(self, held: Held) -> tuple[int, Ids]:
        """The record of the next engine step (or the finish that alone is owed), and all ids said with it."""
        assert held.said is not None
        said = held.said
        ids = said if len(said) >= LIMIT else (*said, self.language.next_id(held.claim, said))
        key = (held, ids)
        if key not in self._tokens:
            self._tokens[key] = self.table.add(self._tokens_record(held, ids))
        return self._tokens[key], ids

    def _tokens_record(self, held: Held, ids: Ids) -> Tokens:
        job = Job(
            response_id=R,
            attempt=held.attempt,
            prompt=[],
            sampling=Sampling(max_output_tokens=LIMIT),
            deadline_ms=1,
            model="m",
            journal_offset=0,
        )
        generation = self.rules.generation(job, f"c{held.claim}", 0, (0,), self._tokenizer, INVALID_SPAN)
        seam = generation.resume(ids[: held.start], LIMIT)
        if seam.finish is not None:
            return generation.finish_only(seam)
        generation.request(seam)
        record = None
        for end in range(held.start + 1, len(ids) + 1):
            finish: FinishReason | None = "length" if end == LIMIT else None
            record = generation.tokens(StepOutput(f"c{held.claim}", (ids[end - 1],), finish))
        assert record is not None, "a step that brings a token makes a record"
        return record

    # -- owner -----------------------------------------------------------------------------------------------

    def screened(self, owner: Owner, fold: JournalFold, up_to: int) -> Screened:
        """Feed the owner's screen what the journal has beyond what it was fed, up to that many pieces; all of it in one
        batch, as shipped."""
        before, new = tuple(fold.pieces[: owner.screened]), tuple(fold.pieces[owner.screened : up_to])
        key = (owner.resume_at, before, new, fold.decision is not None and up_to == len(fold.pieces))
        if key not in self._screens:
            self._screens[key] = self._screen(*key)
        return self._screens[key]

    def _screen(self, resume_at: int, before: tuple[str, ...], new: tuple[str, ...], final: bool) -> Screened:
        # The two policies differ in name only.
        screen = self.rules.screen(self.policies[0], resume_at)
        earlier = [window for piece in before for window in screen.feed(piece)]
        screen.resolve(earlier, [self._find(window) for window in earlier])
        windows = [window for piece in new for window in screen.feed(piece)]
        windows += screen.feed("", final=True) if final else []
        outcome = screen.resolve(windows, [self._find(window) for window in windows])
        return Screened(outcome, screen.done, screen.position)

    def _find(self, window: Window) -> list[Finding]:
        """What the shipped pattern classifier does, without its event loop: the model has one pattern."""
        (category,) = self.policies[0].categories.values()
        (pattern,) = category.patterns
        matches = pattern.regex.finditer(window.text, window.start - window.base, window.end - window.base)
        return [
            Finding(
                category.name,
                match.start() + window.base,
                match.end() + window.base,
                open=match.end() + window.base == window.end and not window.final,
            )
            for match in matches
        ]
