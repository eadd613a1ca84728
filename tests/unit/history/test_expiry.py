"""The sweep: everything that has expired, in small steps, whatever the store is doing."""

import asyncio
import logging

import pytest

from services.history import expiry
from services.history.errors import StoreError, StoreUnavailableError
from services.history.expiry import Sweep
from services.history.stores.port import Retention
from shared import patience
from tests.unit.history.fakes import NOW_MS, TENANT, MemoryStore, an_id, turn

LIFE_MS = 1_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(expiry, "_PAUSE_S", 0)


def short_lived() -> MemoryStore:
    return MemoryStore(Retention(response_ms=LIFE_MS, tombstone_ms=LIFE_MS), lambda: NOW_MS)


async def test_forgets_all_that_has_expired_and_nothing_else() -> None:
    memory, old = short_lived(), [an_id() for _ in range(2 * expiry.STEP + 1)]
    await memory.record([record for response_id in old for record in turn(response_id, "q", "a")])
    sweep = Sweep(memory, lambda: NOW_MS + LIFE_MS)
    assert await sweep.once() == 0
    young = an_id()
    late = Sweep(memory, lambda: NOW_MS + LIFE_MS + 5)
    assert await late.once() == len(old)
    await memory.record(turn(young, "q", "a"))
    assert [await memory.get(TENANT, response_id) for response_id in old] == [None] * len(old)
    assert await memory.get(TENANT, young) is not None


async def test_a_store_that_is_away_is_waited_for_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    memory, response_id = short_lived(), an_id()
    await memory.record(turn(response_id, "q", "a"))
    memory.failures = [StoreUnavailableError("locked")] * 6
    with caplog.at_level(logging.INFO):
        sweep = asyncio.create_task(Sweep(memory, lambda: NOW_MS + 2 * LIFE_MS, every_s=0.01).run())
        while memory.failures or "forgotten" not in caplog.text:
            await asyncio.sleep(0.001)
        sweep.cancel()
    assert caplog.text.count("expiry waits") == 1
    assert "1 responses and remains of deleted ones" in caplog.text


async def test_an_unusable_store_ends_the_service() -> None:
    memory = short_lived()
    memory.failures = [StoreError("malformed")]
    with pytest.raises(StoreError):
        await Sweep(memory, lambda: NOW_MS).run()
