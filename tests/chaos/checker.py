"""What clients saw and what the log holds, against DESIGN 8. Pure: evidence in, violations out.

The checker trusts neither gateways nor owners: a client's text is held against the terminal that the client saw,
against the terminal in the public log, against the tokens of the journal and against what the same prompt gave in
the run without faults.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.chaos.evidence import Evidence, Rule, Violation
from tests.chaos.logrules import check_logs, folded
from tests.chaos.observations import (
    DELTA,
    LAST_TYPES,
    AnyClientLine,
    AnyFaultLine,
    Asked,
    Event,
    Refused,
    by_stream,
)

__all__ = [
    "Evidence",
    "Rule",
    "Violation",
    "check",
    "counts",
    "last_event",
    "prompt_of",
    "references_of",
    "response_of",
]


def check(evidence: Evidence) -> list[Violation]:
    """Every violation; an empty list means that DESIGN 8.1, 8.2, 8.3 and 8.5 held for every stream."""
    found: list[Violation] = []
    for stream, lines in by_stream(evidence.lines).items():
        found += _client(f"stream {stream}", lines, evidence)
    for response_id in sorted(evidence.journals.keys() | evidence.events.keys()):
        found += check_logs(response_id, evidence)
    return found


def counts(violations: Sequence[Violation]) -> dict[str, int]:
    """How often each rule was broken, the unbroken ones too."""
    seen = Counter(violation.rule for violation in violations)
    return {rule.value: seen[rule] for rule in Rule}


def references_of(lines: Sequence[AnyClientLine | AnyFaultLine]) -> dict[str, str]:
    """Prompt → text, from a run without faults. Raises ValueError where one prompt got two answers."""
    texts: dict[str, str] = {}
    for stream in by_stream(lines).values():
        prompt, last = prompt_of(stream), last_event(stream)
        if last is None or last.text is None:
            raise ValueError(f"{prompt!r} has no answer in the run without faults")
        if texts.setdefault(prompt, last.text) != last.text:
            raise ValueError(f"{prompt!r} got two answers: {texts[prompt]!r} and {last.text!r}")
    return texts


def prompt_of(lines: Sequence[AnyClientLine]) -> str:
    """What the stream's client asked."""
    return next(line.prompt for line in lines if isinstance(line, Asked))


def last_event(lines: Sequence[AnyClientLine]) -> Event | None:
    """The first event that ends a response."""
    return next((line for line in lines if isinstance(line, Event) and line.type in LAST_TYPES), None)


def response_of(lines: Sequence[AnyClientLine]) -> str | None:
    """The id of the response that the stream read."""
    return next((line.response_id for line in lines if isinstance(line, Event) and line.response_id), None)


# -- one client ----------------------------------------------------------------------------------------------


def _client(where: str, lines: Sequence[AnyClientLine], evidence: Evidence) -> Iterator[Violation]:
    events = [line for line in lines if isinstance(line, Event)]
    yield from _numbers(where, events)
    for line in lines:
        if isinstance(line, Refused) and line.resuming and line.status == 404:
            yield Violation(Rule.FORGOTTEN, where, f"{line.gateway} answered {line.status} {line.body}")
    last = last_event(lines)
    if last is None:
        yield Violation(Rule.UNTERMINATED, where, f"{response_of(lines)}: the client never saw the end")
        return
    for late in events[events.index(last) + 1 :]:
        yield Violation(Rule.AFTER_TERMINAL, where, f"{late.type} {late.number} behind {last.type} {last.number}")
    yield from _text(where, lines, last, evidence)


def _numbers(where: str, events: Sequence[Event]) -> Iterator[Violation]:
    """Sequence numbers count 0, 1, 2 … over all connections."""
    expected, seen = 0, set[int]()
    for event in events:
        if event.number in seen:
            yield Violation(Rule.DOUBLED, where, f"event {event.number} came twice")
        elif event.number < expected:
            yield Violation(Rule.REORDERED, where, f"event {event.number} came behind {expected - 1}")
        elif event.number > expected:
            yield Violation(Rule.LOST, where, f"event {event.number} came where {expected} was due")
        seen.add(event.number)
        expected = max(expected, event.number + 1)


def _text(where: str, lines: Sequence[AnyClientLine], last: Event, evidence: Evidence) -> Iterator[Violation]:
    said = "".join(line.text or "" for line in lines if isinstance(line, Event) and line.type == DELTA)
    if said != last.text:
        yield Violation(Rule.TEXT, where, f"the deltas say {said!r}, the end says {last.text!r}")
    response_id = response_of(lines)
    terminal = folded(evidence.events.get(response_id or "", ())).terminal
    if terminal is not None and terminal.text != last.text:
        yield Violation(Rule.TEXT, where, f"the log's end says {terminal.text!r}, the client's {last.text!r}")
    if last.type == "response.failed":
        yield Violation(Rule.WRONG_END, where, f"{response_id} ended with {last.type}, the log says {terminal}")
    elif last.text != (wanted := evidence.references.get(prompt_of(lines))):
        yield Violation(Rule.SPLICED, where, f"without faults the answer was {wanted!r}, now {last.text!r}")
