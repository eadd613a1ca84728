"""A sliding window of 60 seconds over one tenant's granted requests. Pure: times are the log's, in milliseconds.

The rule: a request that is granted at t counts in [t, t + 60 s). So in no 60 seconds are more requests granted, or more
tokens charged, than the limits say. What was asked for and refused stands in the window too, without counting: see
`LedgerFold` for what it is needed for.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from services.gateway.ledger.limits import Limits

WINDOW_MS = 60_000

Kind = Literal["requests", "tokens"]


@dataclass(slots=True, eq=False)
class Entry:
    """One charge: when it was appended, what it holds now, and whether it counts."""

    at_ms: int
    tokens: int
    granted: bool = False


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request does not fit: `used` of `limit` are taken, it asks for `asked`; `wait_ms` until it would fit if
    nothing else came, None if it never will."""

    kind: Kind
    limit: int
    used: int
    asked: int
    wait_ms: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant stands: its limits, what is taken of them, and in how many ms all of it is free again."""

    limits: Limits
    requests: int
    tokens: int
    requests_reset_ms: int
    tokens_reset_ms: int


@dataclass(slots=True)
class Window:
    """The entries of the last 60 seconds, oldest first, and what of them counts."""

    entries: deque[Entry] = field(default_factory=deque)
    requests: int = 0
    tokens: int = 0

    def forget(self) -> None:
        """Forget the oldest entry."""
        entry = self.entries.popleft()
        self.requests -= entry.granted
        self.tokens -= entry.granted * entry.tokens

    def add(self, entry: Entry) -> None:
        """The newest entry, not yet granted."""
        self.entries.append(entry)

    def grant(self, entry: Entry) -> None:
        """From now on the entry counts."""
        if not entry.granted:
            entry.granted = True
            self.requests += 1
            self.tokens += entry.tokens

    def settle(self, entry: Entry, tokens: int) -> None:
        """The entry holds no more than `tokens`."""
        used = max(0, min(entry.tokens, tokens))
        self.tokens -= entry.granted * (entry.tokens - used)
        entry.tokens = used

    def shortage(self, limits: Limits, tokens: int, now_ms: int) -> Shortage | None:
        """What keeps one more request of `tokens` from being granted at `now_ms`; nothing is changed."""
        over = self._lapsed(now_ms)
        if limits.tokens is not None and tokens > limits.tokens:
            return Shortage("tokens", limits.tokens, self.tokens - over.tokens, tokens, None)
        shortages = [
            self._short("requests", limits.requests, self.requests - over.requests, 1, now_ms),
            self._short("tokens", limits.tokens, self.tokens - over.tokens, tokens, now_ms),
        ]
        found = [shortage for shortage in shortages if shortage is not None]
        return max(found, key=lambda shortage: shortage.wait_ms or 0, default=None)

    def standing(self, limits: Limits, now_ms: int) -> Standing:
        """How much is taken at `now_ms`; nothing is changed."""
        over = self._lapsed(now_ms)
        newest = next((entry.at_ms for entry in reversed(self.entries) if entry.granted), -WINDOW_MS)
        heavy = next((entry.at_ms for entry in reversed(self.entries) if entry.granted and entry.tokens), -WINDOW_MS)
        return Standing(
            limits,
            self.requests - over.requests,
            self.tokens - over.tokens,
            max(0, newest + WINDOW_MS - now_ms),
            max(0, heavy + WINDOW_MS - now_ms),
        )

    def _lapsed(self, now_ms: int) -> "_Sum":
        """What still stands here and no longer counts at `now_ms`."""
        requests = tokens = 0
        for entry in self.entries:
            if not _is_over(entry, now_ms):
                break
            requests += entry.granted
            tokens += entry.granted * entry.tokens
        return _Sum(requests, tokens)

    def _short(self, kind: Kind, limit: int | None, used: int, asked: int, now_ms: int) -> Shortage | None:
        if limit is None or used + asked <= limit:
            return None
        left = used
        for entry in self.entries:
            if entry.granted and not _is_over(entry, now_ms):
                left -= 1 if kind == "requests" else entry.tokens
                if left + asked <= limit:
                    return Shortage(kind, limit, used, asked, entry.at_ms + WINDOW_MS - now_ms)
        return Shortage(kind, limit, used, asked, WINDOW_MS)


@dataclass(frozen=True, slots=True)
class _Sum:
    requests: int
    tokens: int


def _is_over(entry: Entry, now_ms: int) -> bool:
    return now_ms - entry.at_ms >= WINDOW_MS
