"""A time limit for many short waits of one task."""

import asyncio
from types import TracebackType


class Patience:
    """As `asyncio.timeout(limit_s)`, time and again: `with patience: await ...` raises TimeoutError if it lasts longer.

    A timeout sets and clears a timer each time, which costs as much as writing an event; here one timer serves all
    waits. To be made, used and closed by one task.
    """

    def __init__(self, limit_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "patience belongs to a task"
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._since_s: float | None = None
        self._expired = False
        self._timer = self._loop.call_later(limit_s, self._look)

    def __enter__(self) -> None:
        self._since_s = self._loop.time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._since_s = None
        expired, self._expired = self._expired, False
        # As asyncio.Timeout: a cancellation from elsewhere outranks ours.
        if expired and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._timer.cancel()

    def _look(self) -> None:
        waited_s = 0.0 if self._since_s is None else self._loop.time() - self._since_s
        if waited_s >= self._limit_s:
            self._expired = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(self._limit_s - waited_s, self._look)
