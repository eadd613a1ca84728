"""One deadline for a service's end: the order, the shares, the late, the failed, the second request."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.errors import BrokerUnavailableError
from shared.lifetime import HURRY_S, Lifetime, Stop

NEVER_S = 3600.0


class Diary:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def quick(self, name: str):  # type: ignore[no-untyped-def]
        async def step() -> None:
            self.lines.append(name)

        return step

    def hanging(self, name: str):  # type: ignore[no-untyped-def]
        async def step() -> None:
            self.lines.append(name)
            await asyncio.sleep(NEVER_S)

        return step

    def failing(self, name: str):  # type: ignore[no-untyped-def]
        async def step() -> None:
            self.lines.append(name)
            raise RuntimeError(f"{name} is broken")

        return step


@asynccontextmanager
async def ended(diary: Diary, stop: Stop, shutdown_s: float = 10.0) -> AsyncIterator[Lifetime]:
    """Asked to stop as soon as the body is through; tells how long the end took."""
    async with Lifetime(stop, shutdown_s) as life:
        yield life
        stop.ask()
        await life.until_end()
        diary.lines.append("end")


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def stop() -> Stop:
    return Stop()


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Thing:
    def __init__(self, diary: Diary, name: str, *, fails: bool = False) -> None:
        self.diary, self.name, self.fails = diary, name, fails

    async def start(self) -> None:
        self.diary.lines.append(f"start {self.name}")
        if self.fails:
            raise BrokerUnavailableError("away")

    async def stop(self) -> None:
        self.diary.lines.append(f"stop {self.name}")


async def test_parts_end_in_the_reverse_of_their_start(diary: Diary, stop: Stop) -> None:
    async with Lifetime(stop, 10) as life:
        await life.start("a", Thing(diary, "a"))
        await life.start("b", Thing(diary, "b"))
        stop.ask()
        await life.until_end()
    assert diary.lines == ["start a", "start b", "stop b", "stop a"]


async def test_a_part_that_does_not_start_ends_what_started_and_itself(diary: Diary, stop: Stop) -> None:
    with pytest.raises(BrokerUnavailableError):
        async with Lifetime(stop, 10) as life:
            await life.start("a", Thing(diary, "a"))
            await life.start("b", Thing(diary, "b", fails=True))
    assert diary.lines == ["start a", "start b", "stop b", "stop a"]


async def test_what_hangs_leaves_time_to_those_behind_it_and_is_named(
    diary: Diary, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    begun = now_s()
    async with Lifetime(stop, 0.4) as life:
        life.at_end("last", diary.quick("last"))
        life.at_end("stubborn", diary.hanging("stubborn"))
        life.at_end("stuck", diary.hanging("stuck"), share=0.25)
        stop.ask()
        await life.until_end()
    assert diary.lines == ["stuck", "stubborn", "last"]
    assert now_s() - begun >= 0.1 + 0.15 - 0.01, "a quarter, then half of what was left"
    assert now_s() - begun < 0.4 + 3
    late = [record.getMessage() for record in caplog.records if record.name == "shared.lifetime"]
    assert [line.split(" did not end")[0] for line in late] == ["stuck", "stubborn"]


async def test_a_step_that_fails_fails_the_shutdown_behind_the_last_step(
    diary: Diary, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="worse is broken"):
        async with ended(diary, stop) as life:
            life.at_end("last", diary.quick("last"))
            life.at_end("bad", diary.failing("bad"))
            life.at_end("worse", diary.failing("worse"))
    assert diary.lines == ["end", "worse", "bad", "last"]
    assert "the end of bad failed" in caplog.text


async def test_the_bodys_own_error_outranks_those_of_the_end(diary: Diary, stop: Stop) -> None:
    with pytest.raises(ValueError, match="body"):
        async with Lifetime(stop, 10) as life:
            life.at_end("bad", diary.failing("bad"))
            raise ValueError("body")
    assert diary.lines == ["bad"]


async def test_a_step_that_was_cancelled_from_within_ends_nothing_else(
    diary: Diary, stop: Stop, caplog: pytest.LogCaptureFixture
) -> None:
    """aiokafka's fetcher cancels its own tasks when it closes, and lets that out while it waits to retry a fetch."""

    async def breaks_off() -> None:
        task = asyncio.create_task(asyncio.sleep(NEVER_S))
        task.cancel()
        await task

    async with ended(diary, stop) as life:
        life.at_end("last", diary.quick("last"))
        life.at_end("consumer", breaks_off)
    assert diary.lines == ["end", "last"]
    assert "the end of consumer broke off" in caplog.text


async def test_a_step_that_will_not_be_cancelled_is_left_behind(diary: Diary, stop: Stop) -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                diary.lines.append("no")

    async with ended(diary, stop, shutdown_s=0.2) as life:
        life.at_end("last", diary.quick("last"))
        life.at_end("stubborn", stubborn)
    released.set()
    assert diary.lines == ["end", "no", "last"]


async def test_a_timeout_inside_a_step_is_a_failure_not_lateness(diary: Diary, stop: Stop) -> None:
    async def times_out() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(NEVER_S)

    with pytest.raises(TimeoutError):
        async with ended(diary, stop) as life:
            life.at_end("inner", times_out)


async def test_a_second_request_hurries_the_step_that_runs_and_those_behind_it(diary: Diary, stop: Stop) -> None:
    begun = now_s()
    async with ended(diary, stop, shutdown_s=NEVER_S) as life:
        life.at_end("last", diary.quick("last"))
        life.at_end("second", diary.hanging("second"))
        life.at_end("first", diary.hanging("first"))
        asyncio.get_running_loop().call_later(0.05, stop.ask)
    assert diary.lines == ["end", "first", "second", "last"]
    assert now_s() - begun < HURRY_S + 1.0


async def test_the_death_of_a_watched_task_ends_the_service_with_its_error(diary: Diary, stop: Stop) -> None:
    async def dies() -> None:
        raise BrokerUnavailableError("away")

    with pytest.raises(BrokerUnavailableError):
        async with Lifetime(stop, 10) as life:
            life.at_end("writer", diary.quick("writer"))
            life.spawn("idle", asyncio.sleep(NEVER_S))
            life.spawn("mailbox", dies())
            await life.until_end()
    assert diary.lines == ["writer"]


async def test_a_task_that_fails_while_the_service_ends_is_heard(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    async def dies_when_cancelled() -> None:
        try:
            await asyncio.sleep(NEVER_S)
        finally:
            raise RuntimeError("no graceful end")

    async with Lifetime(stop, 10) as life:
        life.spawn("sore", dies_when_cancelled())
        await asyncio.sleep(0)
        stop.ask()
        await life.until_end()
    assert "sore failed" in caplog.text
    assert "no graceful end" in caplog.text


async def test_a_start_that_takes_long_is_given_up(diary: Diary, stop: Stop) -> None:
    asyncio.get_running_loop().call_later(0.02, stop.ask)
    async with Lifetime(stop, 10) as life:
        life.at_end("writer", diary.quick("writer"))
        await asyncio.sleep(NEVER_S)
        diary.lines.append("never")
    assert diary.lines == ["writer"]
    await asyncio.sleep(0)  # the cancellation was used up: the caller goes on


async def test_somebody_elses_cancel_is_not_taken_for_a_request_to_stop(diary: Diary, stop: Stop) -> None:
    async def lives() -> None:
        async with Lifetime(stop, 10) as life:
            life.at_end("writer", diary.quick("writer"))
            await life.until_end()

    task = asyncio.create_task(lives())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary.lines == ["writer"]


async def test_what_blocks_runs_in_a_thread_and_is_left_behind(stop: Stop, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    try:
        async with Lifetime(stop, 0.2) as life:
            life.at_end_blocking("traces", release.wait)
            stop.ask()
            await life.until_end()
    finally:
        release.set()
    assert "traces did not end within 0.1 s" in caplog.text
