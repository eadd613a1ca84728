"""One response in the logs and in the store, against DESIGN 5, 6 and 8. Pure.

The rules are told here a second time, without the folds and the screens that the services run: a mistake in those
must not hide itself.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shared.folds import EventFold
from shared.records import (
    TERMINALS,
    Accepted,
    AnyTerminal,
    Cancel,
    Claimed,
    Completed,
    Cut,
    Delta,
    Incomplete,
    TokenLogprob,
    Tokens,
    Verdict,
)
from shared.records import Screening as Mark
from shared.records.codec import Envelope
from tests.chaos.evidence import NOTHING_FORBIDDEN, Evidence, Forbidden, Rule, Screening, SubLog, Violation


def check_logs(response_id: str, evidence: Evidence) -> Iterator[Violation]:
    """Every violation in what the logs, and the store if it was asked, hold of a response."""
    events, journal = evidence.events.get(response_id, ()), evidence.journals.get(response_id, ())
    fold = folded(events)
    if any(isinstance(envelope.record, Accepted) for envelope in events) and fold.terminal is None:
        yield Violation(Rule.UNTERMINATED, response_id, f"accepted, {len(events)} events, no terminal")
    yield from _after_terminal(response_id, events)
    said = said_in(journal)
    yield from _claimed(response_id, events, fold, said, evidence.screening or NOTHING_FORBIDDEN)
    yield from _logprobs(response_id, fold, said)
    if evidence.screening is not None:
        yield from _screened(response_id, events, said, evidence.screening)
    if evidence.verdicts is not None:
        verdicts = evidence.verdicts.get(response_id, ())
        yield from _judged(response_id, events, verdicts)
        yield from _judged_alike(response_id, verdicts)
    if evidence.stored is not None:
        yield from _stored(response_id, fold, evidence)


def folded(records: SubLog) -> EventFold:
    """What a reader makes of a response's events."""
    fold = EventFold()
    for envelope in records:
        fold.apply(envelope.record)
    return fold


def _after_terminal(response_id: str, events: SubLog) -> Iterator[Violation]:
    """A superseded owner may come late with anything, an end too, which is none then; who owned the response after its
    end has seen it."""
    ended_in: int | None = None
    in_force = 0
    for envelope in events:
        record = envelope.record
        if ended_in is not None and isinstance(record, (Delta, *TERMINALS)) and record.epoch > ended_in:
            kind = type(record).__name__
            yield Violation(Rule.AFTER_TERMINAL, response_id, f"{kind} of epoch {record.epoch}, ended in {ended_in}")
        if ended_in is None and isinstance(record, TERMINALS) and record.epoch >= in_force:
            ended_in = record.epoch
        if isinstance(record, (Mark, Accepted, *TERMINALS)):
            in_force = max(in_force, record.epoch)


# -- what the counting claims said ---------------------------------------------------------------------------


@dataclass(slots=True)
class Said:
    """The raw text by the rules of DESIGN 5.1, 5.2 and 5.4; `lengths[i]` code points of it stood in the journal at
    `times_ms[i]`. `decided`: the journal says that no more will come."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    decided_ms: int | None = None

    def reached_ms(self, length: int) -> int | None:
        """When the raw text became so long (the log's clock); None if it never did."""
        index = bisect_left(self.lengths, length)
        return self.times_ms[index] if index < len(self.times_ms) else None


def said_in(journal: SubLog) -> Said:
    """Walk the journal: the first claim of the highest attempt speaks, from exactly the next position on."""
    said, owner, attempt, position, begun, pieces = Said(), "", 0, 0, False, list[str]()
    length = 0
    for envelope in journal:
        record = envelope.record
        if isinstance(record, Claimed) and record.attempt > attempt:
            owner, attempt, begun = record.claim, record.attempt, False
        elif isinstance(record, Tokens) and record.claim == owner:
            if record.position != position:
                # A late copy is dropped; a start elsewhere or a gap makes the claim void.
                owner = owner if begun and record.position < position else ""
                continue
            begun, position = True, position + len(record.ids)
            pieces += record.pieces
            said.logprobs += record.logprobs
            length += sum(map(len, record.pieces))
            said.lengths.append(length)
            said.times_ms.append(envelope.timestamp_ms)
        if isinstance(record, Cancel | Cut) or (isinstance(record, Tokens) and begun and _finishes(record, owner)):
            said.decided_ms = envelope.timestamp_ms
            break
    said.text = "".join(pieces)
    return said


def _logprobs(response_id: str, fold: EventFold, said: Said) -> Iterator[Violation]:
    """Those of every token whose text is public, each once; a masked text is not looked at here."""
    wanted = [entry for entry in said.logprobs if entry.end <= fold.position]
    if fold.logprobs != wanted:
        detail = f"{len(fold.logprobs)} log probabilities are public, {len(wanted)} were said of that text"
        yield Violation(Rule.LOGPROBS, response_id, detail)
    if fold.terminal is not None and fold.terminal.logprobs != fold.logprobs:
        detail = f"the deltas have {len(fold.logprobs)} log probabilities, the end has {len(fold.terminal.logprobs)}"
        yield Violation(Rule.LOGPROBS, response_id, detail)


def _finishes(record: Tokens, owner: str) -> bool:
    return record.finish is not None and record.claim == owner


def _claimed(
    response_id: str, events: SubLog, fold: EventFold, said: Said, screening: Screening
) -> Iterator[Violation]:
    """The public text is what the counting claims said, each at its place; whole, where the model ended by itself."""
    whole, terminal = screening.public(said.text), fold.terminal
    masks = {(place.start, place.end): place.mask for place in screening.forbidden(said.text)}
    for envelope in events:
        delta = envelope.record
        if isinstance(delta, Delta):
            wanted = masks.get((delta.start, delta.end)) or said.text[delta.start : delta.end]
            if delta.text != wanted:
                detail = f"{delta.text!r} is public at {delta.start}, the claims said {wanted!r}"
                yield Violation(Rule.CLAIMS, response_id, detail)
    if terminal is None:
        return
    if not whole.startswith(terminal.text) or (_natural(terminal) and terminal.text != whole):
        yield Violation(Rule.CLAIMS, response_id, f"the claims said {whole!r}, the public log ends {terminal.text!r}")
    if not terminal.text.startswith(fold.text):
        yield Violation(Rule.TEXT, response_id, f"the log's deltas say {fold.text!r}, its terminal {terminal.text!r}")


def _natural(terminal: AnyTerminal) -> bool:
    return isinstance(terminal, Completed) or (
        isinstance(terminal, Incomplete) and terminal.reason == "max_output_tokens"
    )


# -- screening -----------------------------------------------------------------------------------------------


def _screened(response_id: str, events: SubLog, said: Said, screening: Screening) -> Iterator[Violation]:
    """No code point of a forbidden text is in the public log, whoever wrote it; every delta lies in what its window
    released, and came after the window's text (DESIGN 8.2)."""
    places = screening.forbidden(said.text)
    for envelope in events:
        record = envelope.record
        if isinstance(record, Delta):
            yield from _forbidden(response_id, record, places)
            yield from _released(response_id, envelope, said, screening, cut=any(p.mask is None for p in places))
        if isinstance(record, TERMINALS):
            text = record.text.lower()
            for word in (*screening.masks, *screening.cuts):
                if word in text:
                    yield Violation(Rule.UNSCREENED, response_id, f"the terminal holds {word!r}: {record.text!r}")


def _forbidden(response_id: str, delta: Delta, places: list[Forbidden]) -> Iterator[Violation]:
    for place in places:
        overlaps = delta.start < place.end and delta.end > place.start
        is_mask = (delta.start, delta.end, delta.text) == (place.start, place.end, place.mask)
        behind_cut = place.mask is None and delta.end > place.start
        if behind_cut or (overlaps and not is_mask):
            yield Violation(Rule.UNSCREENED, response_id, f"{delta.text!r} is public at {delta.start}, over {place}")


def _released(
    response_id: str, envelope: Envelope[Delta], said: Said, screening: Screening, *, cut: bool
) -> Iterator[Violation]:
    """After the window that ends at e, text up to e - hold_back is public; all of it after the last window, or up to
    the match that cuts."""
    delta = envelope.record
    end, raw = (delta.window + 1) * screening.stride, len(said.text)
    last = end > raw
    limit = raw if last else end if cut else end - screening.hold_back
    if delta.end > limit:
        detail = f"[{delta.start}, {delta.end}) is public by window {delta.window}, which releases up to {limit}"
        yield Violation(Rule.UNSCREENED, response_id, detail)
        return
    seen_ms = said.decided_ms if last else said.reached_ms(end)
    if seen_ms is None or envelope.timestamp_ms < seen_ms:
        detail = f"window {delta.window} was public at {envelope.timestamp_ms}, its text was said at {seen_ms}"
        yield Violation(Rule.UNSCREENED, response_id, detail)


# -- verdicts ------------------------------------------------------------------------------------------------


def _judged(response_id: str, events: SubLog, verdicts: SubLog) -> Iterator[Violation]:
    """Nothing is public before its verdict stands in the log, whoever wrote either (DESIGN 8.2): no acceptance before
    the input's, no code point of a delta before one on its range."""
    for envelope in events:
        record = envelope.record
        if not isinstance(record, Accepted | Delta):
            continue
        earlier = [v.record for v in verdicts if v.timestamp_ms <= envelope.timestamp_ms]
        if isinstance(record, Accepted):
            if not any(verdict.stage == "input" and verdict.action in ("pass", "flag") for verdict in earlier):
                yield Violation(
                    Rule.UNJUDGED, response_id, f"accepted at {envelope.timestamp_ms}, no verdict let it in"
                )
        elif (judged := _judged_up_to(record.start, earlier)) < record.end:
            detail = f"[{record.start}, {record.end}) is public, at {envelope.timestamp_ms} only {judged} were judged"
            yield Violation(Rule.UNJUDGED, response_id, detail)


def _judged_up_to(position: int, verdicts: Iterable[Verdict]) -> int:
    """Where the text from `position` on is no longer covered by verdicts on output."""
    for start, end in sorted((v.start, v.end) for v in verdicts if v.stage == "output"):
        if start <= position:
            position = max(position, end)
    return position


def _judged_alike(response_id: str, verdicts: SubLog) -> Iterator[Violation]:
    """Whoever judged a place, the first owner or the third, came to the same and called it the same (DESIGN 6.3)."""
    known: dict[object, Verdict] = {}
    for envelope in verdicts:
        verdict = envelope.record
        place = (verdict.stage, verdict.policy, verdict.window, verdict.category, verdict.start, verdict.end)
        first = known.setdefault(place, verdict)
        if _decided(first) != _decided(verdict):
            yield Violation(Rule.JUDGED_TWICE, response_id, f"{_decided(first)} became {_decided(verdict)} at {place}")


def _decided(verdict: Verdict) -> tuple[object, ...]:
    return verdict.verdict_id, verdict.action, verdict.scores, verdict.thresholds


# -- the store -----------------------------------------------------------------------------------------------


def _stored(response_id: str, fold: EventFold, evidence: Evidence) -> Iterator[Violation]:
    """History holds what the client was told, no more and no less (DESIGN 8.5)."""
    assert evidence.stored is not None
    stored = evidence.stored.get(response_id)
    told = fold.accepted is not None and fold.accepted.spec.store and fold.terminal is not None and not fold.deleted
    if stored is None:
        if told:
            yield Violation(Rule.STORED, response_id, "history holds nothing of it")
        return
    if not told:
        yield Violation(Rule.STORED, response_id, f"history holds {stored.terminal}, the client was told no end")
    elif (stored.accepted, stored.terminal) != (fold.accepted, fold.terminal):
        yield Violation(Rule.STORED, response_id, f"history holds {stored.terminal}, the client got {fold.terminal}")
