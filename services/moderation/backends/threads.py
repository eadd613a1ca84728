"""One thread for the blocking work of one backend, and how many cores that may take."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """Work runs in order, one piece at a time. Who stops waiting leaves its piece to end by itself if it has begun, and
    takes it out of the queue if not: so no more waits here than somebody waits for."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def stop(self) -> None:
        """Wait until what has begun is done; nothing else begins."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


def use_cores(count: int) -> None:
    """Load torch, which computes on so many cores from now on: others on the machine have work to do.

    Torch keeps this by thread and as what new threads begin with, the libraries below it by process: all backends say
    the same. A sum of two threads rounds otherwise than one of four. Raises ModuleNotFoundError.
    """
    # numpy's library reads this as it is loaded, which torch does; else it would take all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(count))
    import torch

    torch.set_num_threads(count)
