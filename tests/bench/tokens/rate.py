"""What every measured process and every bare loop is given: so many streams, so many tokens a second."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

TICK_S = 0.01
STARTS_PER_S = 500.0
"""How fast streams begin: evenly, so that their tokens are due at different times."""
NEVER_ENDS = 4000
"""Tokens of an answer that outlasts every window."""


@dataclass(frozen=True, slots=True)
class TokenLoad:
    """`tokens_per_s` over all streams, one token a record, streams in turn; the streams spread over `partitions`."""

    streams: int = 500
    tokens_per_s: int = 5000
    partitions: int = 32
    warmup_s: float = 4.0
    window_s: float = 20.0

    @property
    def tokens_per_stream_s(self) -> float:
        return self.tokens_per_s / self.streams

    def partition_of(self, stream: int) -> int:
        """Where stream number `stream` lives."""
        return stream % self.partitions


async def due(per_s: float, tick_s: float = TICK_S) -> AsyncIterator[int]:
    """Every `tick_s`: how many are due since the last time. A late tick makes up for itself."""
    loop = asyncio.get_running_loop()
    started_s, done, tick = loop.time(), 0, 0
    while True:
        tick += 1
        await asyncio.sleep(max(0.0, started_s + tick * tick_s - loop.time()))
        count = int((loop.time() - started_s) * per_s) - done
        done += count
        yield count
