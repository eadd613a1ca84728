"""What limited requests used in the end, told to the ledger while it still matters."""

import asyncio
import logging
from collections.abc import Sequence

from services.gateway.fanout import Lease, Stream
from services.gateway.ledger import Receipt
from services.gateway.ledger.window import WINDOW_MS
from shared.futures import error_of

log = logging.getLogger(__name__)


class Settlements:
    """One task for each limited request that runs, for the 60 seconds at most for which its charge counts.

    A response that nobody here reads any more is not heard of again: its charge then stands as it is.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, receipt: Receipt, leases: Sequence[Lease]) -> None:
        """Settle once all of the request's responses have ended."""
        if receipt.charge.tokens_per_minute is None:
            return
        # Who asked for a background response leaves at once. To read it costs nothing: the journal counts no readers
        # of such a one.
        own = [lease.share() for lease in leases if not lease.stream.counted]
        task = asyncio.create_task(_settle(receipt, [lease.stream for lease in leases], own), name="settle")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Forget what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if (error := error_of(task)) is not None:
            log.error("a request was not settled", exc_info=error)


async def _settle(receipt: Receipt, streams: Sequence[Stream], own: Sequence[Lease]) -> None:
    try:
        async with asyncio.timeout(WINDOW_MS / 1000):
            for stream in streams:
                while not stream.ended:
                    await stream.change()
    except TimeoutError:
        return  # the charge has left the window by now
    finally:
        for lease in own:
            lease.release()
    ends = [stream.fold.terminal for stream in streams]
    receipt.settle(sum(end.usage.total_tokens for end in ends if end is not None))
