"""Lanes: in order inside, side by side between, in turns, bounded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway.api.lanes import MAX_IN_FLIGHT, MAX_NAMED_LANES, MAX_QUEUED, MAX_QUEUED_BYTES, Lanes
from services.gateway.errors import ApiError, retry_after


@pytest.fixture
async def lanes() -> AsyncIterator[Lanes]:
    made = Lanes()
    yield made
    await made.stop()


class Work:
    """Jobs that note when they began, and run until they are told to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.running: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()

    def job(self, name: str) -> Any:
        async def run() -> None:
            self.begun.append(name)
            self.running[name] = asyncio.Event()
            self._changed.set()
            await self.running[name].wait()
            del self.running[name]

        return run

    async def until(self, count: int) -> list[str]:
        """What has begun, once that is so many."""
        async with asyncio.timeout(5):
            while len(self.begun) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.begun


async def test_lanes_are_fifo_inside_and_parallel_between(lanes: Lanes) -> None:
    work = Work()
    for name in ("a1", "a2", "b1"):
        lanes.submit(name[0], work.job(name))
    assert await work.until(2) == ["a1", "b1"]
    work.running["a1"].set()
    assert await work.until(3) == ["a1", "b1", "a2"]


async def test_sixteen_run_at_once_and_the_others_wait_their_turn(lanes: Lanes) -> None:
    work = Work()
    names = [f"{number}" for number in range(20)]
    for name in names:
        lanes.submit(name, work.job(name))
    assert await work.until(MAX_IN_FLIGHT) == names[:MAX_IN_FLIGHT]
    work.running["7"].set()
    assert (await work.until(17))[-1] == "16"
    assert len(work.running) == MAX_IN_FLIGHT


async def test_a_lane_with_much_to_do_does_not_hold_back_the_others(lanes: Lanes) -> None:
    work = Work()
    for number in range(MAX_IN_FLIGHT):
        for turn in range(3):
            lanes.submit(f"busy-{number}", work.job(f"busy-{number}.{turn}"))
    await work.until(MAX_IN_FLIGHT)
    lanes.submit("late", work.job("late"))
    await asyncio.sleep(0)  # its lane stands in line now
    work.running["busy-0.0"].set()
    assert (await work.until(MAX_IN_FLIGHT + 1))[-1] == "late"


async def test_named_lanes_are_counted_for_good_and_the_default_one_is_not(lanes: Lanes) -> None:
    async def nothing() -> None:
        pass

    for number in range(MAX_NAMED_LANES):
        lanes.submit(f"lane-{number}", nothing)
    await lanes.idle()
    lanes.submit(None, nothing)
    lanes.submit("lane-0", nothing)
    with pytest.raises(ApiError) as caught:
        lanes.submit("one-more", nothing)
    assert (caught.value.status, caught.value.code) == (400, "websocket_stream_limit_reached")


async def test_what_waits_is_bounded_in_number(lanes: Lanes) -> None:
    work = Work()
    lanes.submit(None, work.job("first"))
    await work.until(1)
    for number in range(MAX_QUEUED):
        lanes.submit(None, work.job(f"{number}"))
    with pytest.raises(ApiError, match=f"{MAX_QUEUED} requests") as caught:
        lanes.submit("other", work.job("one more"))
    assert (caught.value.status, caught.value.headers) == (429, retry_after(1000))


async def test_what_waits_is_bounded_in_bytes(lanes: Lanes) -> None:
    work = Work()
    lanes.submit(None, work.job("first"))
    await work.until(1)
    lanes.submit(None, work.job("large"), MAX_QUEUED_BYTES)
    with pytest.raises(ApiError) as caught:
        lanes.submit(None, work.job("one more"), 1)
    assert caught.value.status == 429
    work.running["first"].set()
    await work.until(2)
    lanes.submit(None, work.job("one more"), 2 * MAX_QUEUED_BYTES)  # nothing waits: it fits however large it is


async def test_a_bug_in_a_lane_is_not_swallowed(lanes: Lanes) -> None:
    async def bug() -> None:
        raise KeyError("oops")

    lanes.submit(None, bug)
    with pytest.raises(KeyError):
        async with asyncio.timeout(5):
            await asyncio.shield(lanes.failure)
