"""What the public log tells of the last minute: how much began, ended, was said and changed its owner. Pure."""

from collections import Counter, deque
from dataclasses import dataclass

KEPT_S = 60
DELTA_SPAN_S = 10
"""Deltas are counted over less: they say whether anything flows now."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the last `KEPT_S` seconds, but `deltas_per_s` of the last `DELTA_SPAN_S`.

    `ended` by outcome; `output_tokens` of those that ended, as their usage says. `new_owners`: how often an owner took
    a running response over.
    """

    accepted: int = 0
    ended: tuple[tuple[str, int], ...] = ()
    output_tokens: int = 0
    deltas_per_s: float = 0.0
    new_owners: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Of what ended; what still runs counts when it ends."""
        return self.output_tokens / KEPT_S


class Flow:
    """Counts by second, for `KEPT_S` seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[str]]] = deque()

    def count(self, at_ms: int, what: str, amount: int = 1) -> None:
        """`what` is a record's kind, or "output_tokens"."""
        second = at_ms // 1000
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, Counter()))
        self._seconds[-1][1][what] += amount  # partitions differ by moments: a late one counts as now

    def totals(self, now_ms: int, ends: tuple[str, ...]) -> Totals:
        """Over the time before `now_ms`; `ends` are the kinds that end a response."""
        now = now_ms // 1000
        while self._seconds and self._seconds[0][0] <= now - KEPT_S:
            self._seconds.popleft()
        all_of_it: Counter[str] = sum((counts for _, counts in self._seconds), Counter())
        deltas = sum(counts["delta"] for second, counts in self._seconds if second > now - DELTA_SPAN_S)
        return Totals(
            accepted=all_of_it["accepted"],
            ended=tuple((kind, all_of_it[kind]) for kind in ends if all_of_it[kind]),
            output_tokens=all_of_it["output_tokens"],
            deltas_per_s=deltas / DELTA_SPAN_S,
            new_owners=all_of_it["screening"],
        )
