"""What a scenario checks beside the checker's rules, because it knows what it did. Pure."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

import msgspec

from shared.records import (
    AnyTerminal,
    Claimed,
    DeadLetter,
    Dispatched,
    Failed,
    Heartbeat,
    Released,
    Requested,
)
from shared.records.codec import Envelope
from tests.chaos.evidence import Harm, SubLog, Violation
from tests.chaos.observations import AnyClientLine, AnyFaultLine, Event, by_stream


def slowed(
    lines: Sequence[AnyClientLine | AnyFaultLine], streams: Sequence[int], limit_s: float
) -> tuple[list[float], list[Violation]]:
    """The longest silence inside each stream, in seconds, and which of them passed the limit."""
    waits: list[float] = []
    found: list[Violation] = []
    for number, own in by_stream(lines).items():
        times = [line.at for line in own if isinstance(line, Event)]
        if number not in streams or len(times) < 2:
            continue
        waits.append(max(b - a for a, b in pairwise(times)))
        if waits[-1] > limit_s:
            found.append(Violation(Harm.SLOWED, f"stream {number}", f"stood still for {waits[-1]:.2f} s"))
    return waits, found


@dataclass(frozen=True, slots=True)
class Ended:
    """A claim that must go: since when (unix ms, the log's clock)."""

    response_id: str
    claim: str
    worker: str
    since_ms: int


def held(
    ended: Sequence[Ended], beats: Sequence[Envelope[Heartbeat]], limit_s: float
) -> tuple[list[float], list[Violation]]:
    """How long each claim's slot stayed taken by the worker's beats, in seconds, and which did so for too long.

    A beat says what was true when it was sent, five times a second: the figures are up to 0.2 s too long.
    """
    waits: list[float] = []
    found: list[Violation] = []
    for claim in ended:
        wait_s = _held_s(claim, beats)
        if wait_s is None or wait_s > limit_s:
            said = "is named by the worker's last beat" if wait_s is None else f"kept its slot for {wait_s:.2f} s"
            found.append(Violation(Harm.HELD, claim.response_id, f"{claim.claim} on {claim.worker} {said}"))
        if wait_s is not None:
            waits.append(wait_s)
    return waits, found


def _held_s(ended: Ended, beats: Sequence[Envelope[Heartbeat]]) -> float | None:
    own = [beat for beat in beats if beat.record.id == ended.worker and beat.timestamp_ms >= ended.since_ms]
    naming = [number for number, beat in enumerate(own) if ended.claim in beat.record.claims]
    first_free = naming[-1] + 1 if naming else 0
    return (own[first_free].timestamp_ms - ended.since_ms) / 1000 if first_free < len(own) else None


def claims_of(journal: SubLog) -> list[Envelope[Claimed]]:
    """The distinct claims of a response, in log order."""
    found: dict[str, Envelope[Claimed]] = {}
    for envelope in journal:
        if isinstance(envelope.record, Claimed):
            found.setdefault(envelope.record.claim, envelope)
    return list(found.values())


def reclaimed(journals: Mapping[str, SubLog], response_ids: Sequence[str]) -> Iterator[Violation]:
    """Responses that were disturbed by nothing have one claim."""
    for response_id in response_ids:
        claims = claims_of(journals.get(response_id, ()))
        if len(claims) != 1:
            detail = f"{len(claims)} claims: {[(c.record.attempt, c.record.worker) for c in claims]}"
            yield Violation(Harm.RECLAIMED, response_id, detail)


def buried(
    response_id: str,
    journal: SubLog,
    terminal: AnyTerminal | None,
    letters: Sequence[Envelope[DeadLetter]],
    attempts: int,
) -> Iterator[Violation]:
    """A job that fails every time is given up after `attempts`, for the client and for the operator (DESIGN 5.7)."""
    made = sorted({e.record.attempt for e in journal if isinstance(e.record, Dispatched)})
    if made != list(range(1, attempts + 1)):
        yield Violation(Harm.NOT_BURIED, response_id, f"attempts {made}, {attempts} were due")
    if not isinstance(terminal, Failed):
        yield Violation(Harm.NOT_BURIED, response_id, f"ended with {terminal}")
    own = [letter.record for letter in letters if letter.record.key == response_id]
    cause = next((e.record.reason for e in reversed(journal) if isinstance(e.record, Released)), "no worker said why")
    if [(letter.attempts, cause in letter.error, bool(letter.value)) for letter in own] != [(attempts, True, True)]:
        yield Violation(Harm.NOT_BURIED, response_id, f"the dead-letter queue holds {own}")


def amnesia(response_id: str, journal: SubLog, last_turn: AnyTerminal | None) -> Iterator[Violation]:
    """The context of the next turn ends with the turn before, as the client was told it."""
    requested = next((e.record for e in journal if isinstance(e.record, Requested)), None)
    remembered = [(m.role, m.text) for m in requested.context] if requested is not None else []
    wanted = None if last_turn is None else ("assistant", last_turn.text)
    if not remembered or remembered[-1] != wanted:
        yield Violation(Harm.AMNESIA, response_id, f"the context ends {remembered[-1:]}, the last turn is {wanted}")


@dataclass(frozen=True, slots=True)
class Follower:
    """What one connection was sent: the events behind `starting_after`, byte for byte."""

    name: str
    starting_after: int
    events: Sequence[bytes]


def different(response_id: str, followers: Sequence[Follower]) -> Iterator[Violation]:
    """All followers were sent the same bytes, each from its place on to the end."""
    whole = max(followers, key=lambda follower: len(follower.events))
    for follower in followers:
        skipped = follower.starting_after - whole.starting_after
        wanted = list(whole.events[skipped:])
        if list(follower.events) != wanted:
            pairs = zip_longest(follower.events, wanted)
            at, (got, due) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
            detail = f"{follower.name}, {at} events behind {follower.starting_after}: got {got!r}, {due!r} was due"
            yield Violation(Harm.DIFFERENT, response_id, detail)


def closed(name: str, stalled_s: float, limit_s: float, slack_s: float, end: Any, wanted: Any) -> Iterator[Violation]:
    """A reader that stood still was closed after the limit, and told so."""
    if not limit_s <= stalled_s <= limit_s + slack_s:
        detail = f"let go after {stalled_s:.1f} s, {limit_s:g} to {limit_s + slack_s:g} s were due"
        yield Violation(Harm.NOT_CLOSED, name, detail)
    if end != wanted:
        yield Violation(Harm.NOT_CLOSED, name, f"the connection ended with {end}, {wanted} was due")


def grown(where: str, before_bytes: int, highest_bytes: int, limit_bytes: int) -> Iterator[Violation]:
    """What nobody reads is not kept in memory."""
    if highest_bytes - before_bytes > limit_bytes:
        mib = f"from {before_bytes / 2**20:.0f} to {highest_bytes / 2**20:.0f} MiB"
        yield Violation(Harm.MEMORY, where, f"grew {mib}, {limit_bytes / 2**20:.0f} MiB are granted")


def died(before: Set[str], after: Set[str]) -> Iterator[Violation]:
    """Nobody ended by himself."""
    for name in sorted(before - after):
        yield Violation(Harm.DIED, name, "it ended, though nobody had struck it")


_ALARMING = frozenset({"ERROR", "CRITICAL"})


def complaints(service: str, lines: Sequence[str], expected: Sequence[str] = ()) -> Iterator[Violation]:
    """A service whose part fails says so in its log (JSON lines); what is no JSON came from the interpreter itself.

    The last line may be torn: its writer may have been killed. `expected` are messages that a scenario provokes.
    """
    for number, line in enumerate(lines):
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            if number < len(lines) - 1:
                yield Violation(Harm.ALARM, service, line)
            continue
        if entry.get("level") in _ALARMING and entry.get("message") not in expected:
            yield Violation(Harm.ALARM, service, line)
