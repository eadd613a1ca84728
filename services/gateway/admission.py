"""How many responses this gateway follows at once: what does not fit is refused at the edge (DESIGN 8.8)."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.api.errors import too_many


class Admission:
    """`limit` slots, each held for a response's whole life in this gateway."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot. Raises ApiError 429 with `retry-after` when none is free."""
        if self.in_flight >= self._limit:
            raise too_many(f"This gateway follows {self._limit:,} responses, its limit. Try again in a moment.")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
