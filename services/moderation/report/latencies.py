"""Quantiles of any number of durations in a bounded space. Pure."""

import math
from collections import Counter

_GROWTH = 1.05
"""Of one bucket over the one before: a quantile is at most 5 % too high."""
_FIRST_MS = 0.01


class Latencies:
    """Milliseconds, counted in buckets that grow by a twentieth."""

    def __init__(self) -> None:
        self.count = 0
        self.max_ms = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, latency_ms: float) -> None:
        """Count one. What is below 0.01 ms counts as that."""
        self.count += 1
        self.max_ms = max(self.max_ms, latency_ms)
        self._buckets[math.ceil(math.log(max(latency_ms, _FIRST_MS) / _FIRST_MS, _GROWTH))] += 1

    def quantile(self, share: float) -> float:
        """The duration that `share` of all do not exceed, in ms, up to 5 % too high; 0 without any."""
        left = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return float(min(self.max_ms, _FIRST_MS * _GROWTH**bucket))
        return self.max_ms
