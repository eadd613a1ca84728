"""When the text of one response came, by the log's clock. Pure."""

from collections import deque


class Arrivals:
    """Remembers when what is not public yet stood in the journal; positions count code points of the raw text."""

    def __init__(self) -> None:
        self._end = 0
        self._came: deque[tuple[int, int]] = deque()  # (position behind what came, unix ms)

    def came(self, pieces: list[str], log_ms: int) -> None:
        """The next pieces of the text stand in the journal since then."""
        self._end += sum(map(len, pieces))
        self._came.append((self._end, log_ms))

    def of(self, position: int) -> int | None:
        """When the code point at `position` came; None where nobody knows. What lies before it is forgotten."""
        while self._came and self._came[0][0] <= position:
            self._came.popleft()
        return self._came[0][1] if self._came else None
