"""The lanes of a WebSocket: FIFO within a lane, side by side between lanes, all bounded."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from services.gateway.api.errors import bad_request, too_many

MAX_NAMED_LANES = 32
MAX_IN_FLIGHT = 16
MAX_QUEUED = 256

Job = Callable[[], Coroutine[Any, Any, None]]


class _Lane:
    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        self.task: asyncio.Task[None] | None = None


class Lanes:
    """Runs jobs; `None` is the default lane. A job that raises is a bug: `failed` raises it in turn."""

    def __init__(self) -> None:
        self._lanes: dict[str | None, _Lane] = {}
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit(self, name: str | None, job: Job) -> None:
        """Run `job` after those of its lane. Raises ApiError when a bound is reached."""
        lane = self._lane(name)
        if sum(len(other.queue) for other in self._lanes.values()) >= MAX_QUEUED:
            raise too_many(f"This connection has {MAX_QUEUED} requests queued, its limit.")
        lane.queue.append(job)
        if lane.task is None:
            self._idle.clear()
            lane.task = asyncio.create_task(self._drain(lane), name=f"lane {name}")
            lane.task.add_done_callback(self._ended)

    async def idle(self) -> None:
        """Return when nothing runs or waits."""
        await self._idle.wait()

    async def failed(self) -> None:
        """Return never; raises what a job raised."""
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Cancel what runs, forget what waits."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._failed.cancel()

    def _lane(self, name: str | None) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            named = len(self._lanes) - (None in self._lanes)
            if name is not None and named >= MAX_NAMED_LANES:
                raise bad_request(
                    f"This connection has {MAX_NAMED_LANES} named lanes, its limit.",
                    code="websocket_stream_limit_reached",
                    param="stream_id",
                )
            lane = self._lanes[name] = _Lane()
        return lane

    async def _drain(self, lane: _Lane) -> None:
        try:
            while lane.queue:
                async with self._in_flight:
                    await lane.queue.popleft()()
        finally:
            lane.task = None
            if all(other.task is None for other in self._lanes.values()):
                self._idle.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)
