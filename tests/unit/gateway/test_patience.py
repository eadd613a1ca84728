"""One timer for many waits: what is short passes, what is long is told from a cancellation."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.gateway.api.patience import Patience

LIMIT_S = 0.05


@contextmanager
def patience() -> Iterator[Patience]:
    made = Patience(LIMIT_S)
    try:
        yield made
    finally:
        made.close()


async def test_many_short_waits_may_take_longer_together() -> None:
    loop = asyncio.get_running_loop()
    with patience() as limit:
        end_s = loop.time() + 3 * LIMIT_S
        while loop.time() < end_s:
            with limit:
                await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_a_long_wait_is_a_timeout() -> None:
    never = asyncio.get_running_loop().create_future()
    with patience() as limit, pytest.raises(TimeoutError), limit:
        await never
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_what_is_not_waited_for_may_take_long() -> None:
    with patience() as limit:
        with limit:
            await asyncio.sleep(0)
        await asyncio.sleep(3 * LIMIT_S)


async def test_a_cancellation_stays_one() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with patience() as limit, limit:
            begun.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_waited_for_is_its_own() -> None:
    with patience() as limit, pytest.raises(ValueError, match="odd"), limit:
        raise ValueError("odd")


async def test_once_closed_it_cancels_nobody() -> None:
    with patience() as limit, limit:
        await asyncio.sleep(0)
    limit._since_s = asyncio.get_running_loop().time()
    await asyncio.sleep(3 * LIMIT_S)
