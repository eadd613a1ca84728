"""How long clients waited: pauses per kind of fault, and how fast a resumed stream goes on. Pure."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.folds import Effect, JournalFold
from shared.ids import parse_response_id
from shared.topics import Service
from tests.chaos.checker import Evidence, response_of
from tests.chaos.observations import AnyClientLine, AnyFaultLine, Broken, Event, Healed, Injected, Opened, by_stream

WINDOW_S = 1.0
"""A silence that begins so long after the fault still counts as its effect: tokens were on their way."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: how often it struck, how many streams, their pauses in seconds."""

    fault: str
    faults: int
    streams: int
    median_s: float
    p99_s: float
    max_s: float


def row(fault: str, faults: int, waits_s: Sequence[float]) -> Row:
    """Figures of `waits_s`; NaN where there are none."""
    ordered = sorted(waits_s) or [math.nan]
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return Row(fault, faults, len(waits_s), statistics.median(ordered), p99, ordered[-1])


def pauses(evidence: Evidence) -> list[Row]:
    """One row per kind of fault, in the order in which they first struck.

    Where two faults hit a stream, one before the other was healed, nobody can tell whose pause it was: it is left out.
    """
    struck: dict[str, list[Injected]] = {}
    for line in evidence.lines:
        if isinstance(line, Injected):
            struck.setdefault(line.fault, []).append(line)
    streams = [_Timed.of(lines) for lines in by_stream(evidence.lines).values()]
    near = _overlapping(evidence.lines)
    return [
        row(name, len(faults), [w for f in faults for w in _waits(f, near[id(f)], streams, evidence)])
        for name, faults in struck.items()
    ]


@dataclass(frozen=True, slots=True)
class _Timed:
    """A stream's lines, and when its events came."""

    lines: Sequence[AnyClientLine]
    times: Sequence[float]

    @staticmethod
    def of(lines: Sequence[AnyClientLine]) -> "_Timed":
        return _Timed(lines, [line.at for line in lines if isinstance(line, Event)])

    def runs_at(self, at: float) -> bool:
        return bool(self.times) and self.times[0] <= at <= self.times[-1]


def _overlapping(lines: Sequence[AnyClientLine | AnyFaultLine]) -> dict[int, list[Injected]]:
    """By each fault's identity: the faults under way at the same time. A death of history pauses no stream."""
    found: dict[int, list[Injected]] = {}
    under_way: list[Injected] = []
    for line in lines:
        if isinstance(line, Injected):
            found[id(line)] = [other for other in under_way if other.service != Service.HISTORY.value]
            if line.service != Service.HISTORY.value:
                for other in under_way:
                    found[id(other)].append(line)
            under_way.append(line)
        elif isinstance(line, Healed):
            under_way = [other for other in under_way if (other.fault, other.victim) != (line.fault, line.victim)]
    return found


def ordinary(evidence: Evidence) -> Row:
    """The longest silence inside each stream of a run without faults."""
    waits = []
    for lines in by_stream(evidence.lines).values():
        times = [line.at for line in lines if isinstance(line, Event)]
        waits += [max(b - a for a, b in pairwise(times))] if len(times) > 1 else []
    return row("none (longest silence in a stream)", 0, waits)


def resumes(evidence: Evidence) -> Row:
    """From the request that resumes a stream to its first event."""
    waits = []
    for lines in by_stream(evidence.lines).values():
        opened: Opened | None = None
        for line in lines:
            if isinstance(line, Opened) and line.starting_after >= 0:
                opened = line
            elif isinstance(line, (Event, Broken)):
                if isinstance(line, Event) and opened is not None:
                    waits.append(line.at - opened.sent_at)
                opened = None
    return row("resume: request to first event", 0, waits)


def _waits(fault: Injected, near: Sequence[Injected], streams: Iterable[_Timed], evidence: Evidence) -> list[float]:
    waits = [
        silence_s(stream.times, fault.at)
        for stream in streams
        if stream.runs_at(fault.at)
        and _hit(fault, stream.lines, evidence)
        and not any(_hit(other, stream.lines, evidence) for other in near)
    ]
    return [wait for wait in waits if wait is not None]


def silence_s(times: Sequence[float], at: float) -> float | None:
    """The longest silence after `at` that begins at most WINDOW_S later; None if the stream did not run then."""
    waits = [b - max(a, at) for a, b in pairwise(times) if b >= at and a <= at + WINDOW_S]
    return max(waits, default=None) if times and times[0] <= at else None


def _hit(fault: Injected, lines: Sequence[AnyClientLine], evidence: Evidence) -> bool:
    response_id = response_of(lines)
    if response_id is None:
        return False
    if fault.service == Service.GATEWAY.value:
        return _gateway_at(lines, fault.at) == fault.victim
    if fault.service == Service.INFERENCE.value:
        return _worker_at(evidence, response_id, fault.at) == fault.victim
    if fault.service == Service.MODERATION.value:
        return parse_response_id(response_id).partition in fault.partitions
    return True


def _gateway_at(lines: Sequence[AnyClientLine], at: float) -> str | None:
    opened = [line.gateway for line in lines if isinstance(line, Opened) and line.at <= at]
    return opened[-1] if opened else None


def _worker_at(evidence: Evidence, response_id: str, at: float) -> str | None:
    """Whose claim owned the response by the log's clock; None once it is decided."""
    fold, worker = JournalFold(), None
    for envelope in evidence.journals.get(response_id, ()):
        if envelope.timestamp_ms / 1000 > at:
            break
        if fold.apply(envelope.record) is Effect.CLAIMED and fold.owner is not None:
            worker = fold.owner.worker
    return None if fold.decision is not None else worker
