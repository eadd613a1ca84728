"""Where the first token's time goes: the log's own clock at every hop (Apache Kafka: LogAppendTime, ms). Pure."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from shared.records import Accepted, Claimed, Delta, Dispatched, Requested, Tokens
from shared.records.codec import Envelope
from tests.bench.workload import Sample

HOPS: tuple[tuple[str, type], ...] = (
    ("requested (gateway)", Requested),
    ("accepted (moderation)", Accepted),
    ("dispatched (moderation)", Dispatched),
    ("claimed (inference)", Claimed),
    ("first tokens (inference)", Tokens),
    ("first delta (moderation)", Delta),
)
CLIENT = "first text at the client (gateway)"
PACE = "from one tokens record to the next"


def stages_ms(sample: Sample, records: Iterable[Envelope[Any]]) -> dict[str, float]:
    """Milliseconds from hop to hop, in order, and the pace of the tokens records; `records` of both logs."""
    logged = list(records)
    times = {name: _times(logged, kind) for name, kind in HOPS}
    found: dict[str, float] = {}
    before_ms = sample.sent_unix_s * 1000
    for name, moments in times.items():
        found[name] = moments[0] - before_ms
        before_ms = moments[0]
    found[CLIENT] = sample.sent_unix_s * 1000 + sample.first_token_ms - before_ms
    tokens = times["first tokens (inference)"]
    found[PACE] = (tokens[-1] - tokens[0]) / max(1, len(tokens) - 1)
    return found


def median_stages(several: Sequence[dict[str, float]]) -> dict[str, float]:
    """Stage by stage."""
    return {name: median(stages[name] for stages in several) for name in several[0]} if several else {}


def _times(records: Sequence[Envelope[Any]], kind: type) -> list[int]:
    return sorted(envelope.timestamp_ms for envelope in records if isinstance(envelope.record, kind))
