"""The lanes of a WebSocket: FIFO within a lane, side by side between lanes, all bounded.

A lane is known by its name from its first request until the connection closes: its memory lives as long
(`lane_memory`), so a lane in which nothing runs counts towards `MAX_NAMED_LANES` too. That is how OpenAI documents it:
a connection takes so many distinct names; who needs another one opens another connection.

Lanes take turns: of those that have requests waiting, the one that has waited longest for a place among the
`MAX_IN_FLIGHT` gets the next one, so that a lane with a hundred requests queued does not hold back one with a single.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from services.gateway.errors import bad_request, too_many
from shared.futures import error_of

MAX_NAMED_LANES = 32
MAX_IN_FLIGHT = 16
MAX_QUEUED = 256
MAX_QUEUED_BYTES = 8 * 1024 * 1024

Job = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Lane:
    queue: deque[tuple[Job, int]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Lanes:
    """Runs jobs; `None` is the default lane. `failure` raises what a job raised, which is a bug, and is never done
    otherwise."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes: dict[str | None, _Lane] = {}
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._queued = 0
        self._queued_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, name: str | None, job: Job, size_bytes: int = 0) -> None:
        """Run `job` after those of its lane; until it begins, it holds `size_bytes`.

        Raises ApiError: 400 for one name too many, 429 when too much waits.
        """
        lane = self._lane(name)
        self._reserve(size_bytes)
        lane.queue.append((job, size_bytes))
        if lane.task is None:
            self._idle.clear()
            lane.task = asyncio.create_task(self._drain(lane), name=f"lane {name}")
            lane.task.add_done_callback(self._ended)

    async def idle(self) -> None:
        """Return when nothing runs or waits."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Cancel what runs, forget what waits."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.failure.cancel()

    def _lane(self, name: str | None) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            named = len(self._lanes) - (None in self._lanes)
            if name is not None and named >= MAX_NAMED_LANES:
                raise bad_request(
                    f"This WebSocket connection has reached its maximum number of distinct stream IDs "
                    f"({MAX_NAMED_LANES}). Reuse an existing stream_id or open a new WebSocket connection.",
                    code="websocket_stream_limit_reached",
                    param="stream_id",
                )
            lane = self._lanes[name] = _Lane()
        return lane

    def _reserve(self, size_bytes: int) -> None:
        # A request that is larger than the bound by itself may still wait alone.
        if self._queued >= MAX_QUEUED or (self._queued and self._queued_bytes + size_bytes > MAX_QUEUED_BYTES):
            raise too_many(
                f"This connection has {self._queued:,} requests of {self._queued_bytes:,} bytes queued; it may have "
                f"{MAX_QUEUED:,} of {MAX_QUEUED_BYTES:,} bytes together. Wait for a response to end."
            )
        self._queued += 1
        self._queued_bytes += size_bytes

    async def _drain(self, lane: _Lane) -> None:
        try:
            while lane.queue:
                async with self._in_flight:
                    job, size_bytes = lane.queue.popleft()
                    self._queued -= 1
                    self._queued_bytes -= size_bytes
                    await job()
        finally:
            lane.task = None
            if all(other.task is None for other in self._lanes.values()):
                self._idle.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = error_of(task)
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)
