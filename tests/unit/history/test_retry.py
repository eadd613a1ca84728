"""Patience: waits as long as it must, says so once, and gives up only where it was told when."""

import asyncio
import logging

import pytest

from services.history import retry
from services.history.errors import StoreError, StoreUnavailableError
from services.history.retry import Patience
from shared import patience
from shared.errors import AppendError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.002)


class Clock:
    """Unix ms, as the test says."""

    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


class Away:
    """Fails so many times, then answers with the number of its calls."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error or StoreUnavailableError("database is locked")

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return self.calls


async def test_one_line_when_it_goes_and_one_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience("recorder")
    with caplog.at_level(logging.INFO):
        assert await patience.until_available(Away(5)) == 6
        assert await patience.until_available(Away(0)) == 1
        assert await patience.until_available(Away(2, AppendError("no broker"))) == 3
    assert [(r.levelname, r.message.split(" after")[0]) for r in caplog.records] == [
        ("WARNING", "recorder waits, trying again: database is locked"),
        ("INFO", "recorder goes on"),
        ("WARNING", "recorder waits, trying again: no broker"),
        ("INFO", "recorder goes on"),
    ]


async def test_what_no_waiting_mends_passes_through_at_once() -> None:
    work = Away(1, StoreError("malformed"))
    with pytest.raises(StoreError, match="malformed"):
        await Patience("recorder").until_available(work)
    assert work.calls == 1


async def test_gives_up_after_the_time_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Away(1_000_000)
    monkeypatch.setattr(patience, "_clock_s", lambda: float(work.calls))  # each takes a second
    with pytest.raises(StoreUnavailableError, match="locked"):
        await Patience("store").until_available(work, timeout_s=4)
    assert work.calls == 4, "the pause before the fifth ends too late"


def test_the_pauses_double_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.5)
    pauses = patience.pauses_s()
    assert [next(pauses) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


async def test_so_many_wait_for_the_same_and_the_next_looks_only_once() -> None:
    queues, clock = retry.Queues(most=2), Clock()

    async def waits(subject: str, until_ms: int) -> int:
        count = 0
        async for _ in queues.looks(subject, clock, until_ms):
            count += 1
        return count

    patient = [asyncio.create_task(waits("conv_1", 60_000)) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(waits("conv_1", 60_000), timeout=1) == 1
    elsewhere = asyncio.create_task(waits("conv_2", 60_000))
    await asyncio.sleep(0.05)
    assert not elsewhere.done(), "another conversation has a queue of its own"
    clock.now_ms = 60_000
    assert all(count > 1 for count in await asyncio.wait_for(asyncio.gather(*patient, elsewhere), timeout=5))
    assert await asyncio.wait_for(waits("conv_1", 59_000), timeout=1) == 1, "time that is over is not waited for"
