"""Counting each verdict once. Pure."""

REMEMBERED = 1_000_000


class Seen:
    """Remembers the latest ids, at least `remembered` of them and at most twice as many.

    A verdict stands in the log a second time where an owner took over and judged again what its predecessor had: soon
    after the first. Ids are remembered by their 64-bit hash, about 60 bytes each.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._young: set[int] = set()
        self._old: set[int] = set()

    def first(self, verdict_id: str) -> bool:
        """Whether this id comes for the first time; it is remembered."""
        known = hash(verdict_id)
        if known in self._young or known in self._old:
            return False
        self._young.add(known)
        if len(self._young) >= self._remembered:
            self._old, self._young = self._young, set()
        return True
