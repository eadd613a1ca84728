"""Closing a consumer whose fetcher stumbles over a fetch that it cancelled itself (aiokafka 0.14), or one that was
never opened."""

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from shared.log import GroupConsumer, LogWriter, Replayer, Tail
from shared.log.clients import close_consumer, uninterrupted
from shared.settings import MeshSettings
from shared.topics import HEARTBEATS, JOURNAL, Service


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


@pytest.mark.parametrize("stopped", [False, True], ids=["forgotten", "stopped"])
@pytest.mark.parametrize(
    "make",
    [
        lambda settings: GroupConsumer(settings, Service.MODERATION, JOURNAL, "g"),
        lambda settings: LogWriter(settings, Service.MODERATION, "moderation-1"),
        lambda settings: Replayer(settings, Service.MODERATION),
        lambda settings: Tail(settings, Service.MODERATION, HEARTBEATS),
    ],
    ids=["group", "writer", "replayer", "tail"],
)
async def test_who_was_never_started_leaves_nothing_open(make: Callable[[MeshSettings], Any], stopped: bool) -> None:
    """A service whose start fails half-way ends with its error, not with aiokafka's about clients nobody opened."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if stopped:
                await make(MeshSettings()).stop()
            else:
                make(MeshSettings())
            gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert [*complaints, *(str(warning.message) for warning in caught)] == []
