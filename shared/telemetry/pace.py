"""How fast an answer comes, which comes in batches. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """When the batches of something came, in seconds of one clock, and how much they were, in any one unit.

    How long the first batch took to be made nobody saw, so only what came behind it has a pace.
    """

    first_s: float = 0.0
    last_s: float = 0.0
    first: int = 0
    total: int = 0

    def came(self, amount: int, at_s: float) -> None:
        """A batch; an empty one is none."""
        if not amount:
            return
        if not self.total:
            self.first, self.first_s = amount, at_s
        self.total += amount
        self.last_s = at_s

    def seconds_per(self, units: int) -> float | None:
        """The time of one unit, if all of it is so many `units`, spread evenly; None without a second batch."""
        behind = self.total - self.first
        return (self.last_s - self.first_s) * self.total / (units * behind) if behind and units else None
