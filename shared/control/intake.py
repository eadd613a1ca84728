"""Records of the control plane, many at a time: bounded, and committed only behind the oldest unfinished.

One request may wait seconds for what it needs; the others must not wait with it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection

from shared.control.watermark import Watermark
from shared.log import RawRecord

Commit = Callable[[int, int], Awaitable[None]]  # partition, next offset


class Intake:
    """Runs up to `max_in_flight` handlers at once and commits behind the oldest unfinished record."""

    def __init__(self, handle: Callable[[RawRecord], Awaitable[None]], commit: Commit, max_in_flight: int) -> None:
        self._handle = handle
        self._commit = commit
        self._slots = asyncio.Semaphore(max_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watermarks: dict[int, Watermark] = {}
        self._losses: Counter[int] = Counter()  # partition → how often it was taken away
        self._left = 0
        self._committing = asyncio.Lock()
        self._closed = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self, raw: RawRecord) -> None:
        """Return once the record's handler has begun, which may wait for a slot. Once closed, takes nothing.

        A record whose partition is taken away while it waits is left to whom the partition comes to, be it ourselves:
        it comes again, behind those before it, which a commit behind this one would pass.
        """
        term = self._term(raw.partition)
        await self._slots.acquire()
        if self._closed or term != self._term(raw.partition):
            self._slots.release()
            return
        task = asyncio.create_task(self._run(raw, self._watermark(raw)), name=f"handle {place(raw)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, partitions: Collection[int]) -> None:
        """The partitions were taken away: what still runs of them is no longer ours to commit.

        It may end all the same: what it appends a second time does not count (DESIGN 5).
        """
        for partition in partitions:
            self._losses[partition] += 1
            self._watermarks.pop(partition, None)

    def forget_all(self) -> None:
        """The group was left."""
        self._left += 1
        self._watermarks.clear()

    @property
    def full(self) -> bool:
        """Whether the next record must wait for a slot."""
        return self._slots.locked()

    async def close(self, timeout_s: float) -> None:
        """Take nothing more and let what runs end; what has not after `timeout_s` is left to another replica."""
        self._closed = True
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _term(self, partition: int) -> tuple[int, int]:
        """Another one whenever the partition was taken away."""
        return self._left, self._losses[partition]

    def _watermark(self, raw: RawRecord) -> Watermark:
        watermark = self._watermarks.get(raw.partition)
        if watermark is None or watermark.rewinds(raw.offset):
            watermark = self._watermarks[raw.partition] = Watermark(raw.offset, committed=raw.offset)
        watermark.take(raw.offset)
        return watermark

    async def _run(self, raw: RawRecord, watermark: Watermark) -> None:
        try:
            await self._handle(raw)
            watermark.done(raw.offset)
            await self._commit_behind(raw.partition, watermark)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits `failure`, which ends the service
            with contextlib.suppress(asyncio.InvalidStateError):
                self.failure.set_exception(error)
        finally:
            self._slots.release()

    async def _commit_behind(self, partition: int, watermark: Watermark) -> None:
        # One at a time: of two concurrent commits the lower might arrive last.
        async with self._committing:
            current = self._watermarks.get(partition) is watermark
            if current and watermark.position > watermark.committed:
                watermark.committed = position = watermark.position
                await self._commit(partition, position)


def place(raw: RawRecord) -> str:
    """Where a record stands, for the log."""
    return f"{raw.partition}@{raw.offset}"
