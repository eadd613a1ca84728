"""Shows progress: a block that is redrawn on a terminal, one line per news elsewhere."""

import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TextIO

from deploy.local.progress import Row, State

_MARKS = {State.WAITING: "·", State.STARTING: "·", State.READY: "✓", State.ENDED: "✗"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_QUIET_S = 2.0  # between two lines about the same part that only tell another percentage


class Screen(ABC):
    """Where a run talks to its user."""

    @abstractmethod
    def rows(self, rows: Sequence[Row]) -> None:
        """Show the state of all parts; called ten times a second."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A message that stays, above the rows that are being redrawn."""

    @abstractmethod
    def settle(self) -> None:
        """The rows stay as they are now; what is said next comes below them."""


def open_screen(out: TextIO = sys.stdout) -> Screen:
    """The screen that suits `out`."""
    return TerminalScreen(out) if out.isatty() else PlainScreen(out)


class PlainScreen(Screen):
    """For logs and pipes: a line for each change of a part's state, and for its details now and then."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._shown: dict[str, tuple[Row, float]] = {}

    def rows(self, rows: Sequence[Row]) -> None:
        now = self._clock()
        for row in rows:
            if self._is_news(row, now):
                self._shown[row.name] = (row, now)
                print(f"{row.text} ({row.waited_s:.1f} s)", file=self._out, flush=True)

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def settle(self) -> None:
        """Nothing to do: plain lines are never redrawn."""

    def _is_news(self, row: Row, now: float) -> bool:
        if row.name not in self._shown:
            return True
        last, shown_at = self._shown[row.name]
        return row.state is not last.state or (row.text != last.text and now - shown_at >= _QUIET_S)


class TerminalScreen(Screen):
    """Redraws its rows in place; messages scroll above them."""

    def __init__(self, out: TextIO, columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns) -> None:
        self._out = out
        self._columns = columns
        self._drawn: list[str] = []
        self._frame = 0

    def rows(self, rows: Sequence[Row]) -> None:
        self._frame += 1
        lines = [self._line(row) for row in rows]
        if lines != self._drawn:
            self._out.write(self._erase() + "".join(line + "\n" for line in lines))
            self._out.flush()
            self._drawn = lines

    def say(self, text: str) -> None:
        self._out.write(self._erase() + "".join(line + "\n" for line in (text, *self._drawn)))
        self._out.flush()

    def settle(self) -> None:
        self._drawn = []

    def _line(self, row: Row) -> str:
        running = row.state in (State.WAITING, State.STARTING)
        mark = _SPINNER[self._frame % len(_SPINNER)] if running else _MARKS[row.state]
        waited = f"  {row.waited_s:.0f} s" if running and row.waited_s >= 1 else ""
        return f"  {mark} {row.text}{waited}"[: max(20, self._columns() - 1)]  # a wrapped line could not be erased

    def _erase(self) -> str:
        return f"\x1b[{len(self._drawn)}A\x1b[J" if self._drawn else ""
