"""Closing a consumer whose fetcher stumbles over a fetch that it cancelled itself (aiokafka 0.14)."""

import asyncio
from typing import Any

import pytest

from shared.log.clients import close_consumer, uninterrupted


class Stumbling:
    """A consumer without a group whose `stop()` lets a CancelledError out that nobody asked for."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self._coordinator = None
        self._fetcher: Any = Closes(self, "fetcher")
        self._client: Any = Closes(self, "client")

    async def stop(self) -> None:
        fetch = asyncio.create_task(asyncio.sleep(3600))
        fetch.cancel()
        await fetch


class Closes:
    def __init__(self, owner: Stumbling, name: str) -> None:
        self._owner, self._name = owner, name
        self._get_conn_lock = asyncio.Lock()

    async def close(self) -> None:
        self._owner.closed.append(self._name)


async def test_what_the_fetcher_did_not_get_to_is_closed_all_the_same() -> None:
    consumer: Any = Stumbling()
    await close_consumer(consumer)
    assert consumer.closed == ["fetcher", "client"]


async def test_a_connection_that_is_being_opened_stands_before_the_fetcher_is_cancelled() -> None:
    """Cancelled in the middle it would belong to nobody, and nobody would close it."""
    consumer: Any = Stumbling()
    async with consumer._client._get_conn_lock:
        closing = asyncio.create_task(close_consumer(consumer))
        await asyncio.sleep(0.01)
        assert consumer.closed == []
    await closing
    assert consumer.closed == ["fetcher", "client"]


async def test_a_cancel_of_ours_is_obeyed() -> None:
    consumer: Any = Stumbling()
    consumer.stop = lambda: asyncio.sleep(3600)
    closing = asyncio.create_task(close_consumer(consumer))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_a_start_that_is_cancelled_ends_first() -> None:
    """A connection that is opened half belongs to nobody."""
    opened, go_on = [], asyncio.Event()

    async def start() -> None:
        await go_on.wait()
        opened.append("whole")

    starting = asyncio.create_task(uninterrupted(start()))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.sleep(0.01)
    assert not starting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert opened == ["whole"]
